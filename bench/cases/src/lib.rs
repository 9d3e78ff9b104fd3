//! A case: one set-up and one measured function, the same for times and for instruction counts.
//!
//! A benchmark binary is a list of cases handed to [`main`]. `--list` names them; `--once NAME` carries one out for
//! callgrind (see `cargo xtask counts`); without the feature `criterion` all others are carried out once, so that what
//! they assert is checked; with it they are timed.
//!
//! # Cost
//! What is measured includes one indirect call, and dropping what the function returns; not the drop of its state.

pub mod mail;

use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;

/// A prepared run: measured when it is called, which is done once.
type Run = Box<dyn FnMut()>;
/// Makes the state anew for each run.
type Prepare = Box<dyn FnMut() -> Run>;

/// One thing to measure.
pub struct Case {
    name: &'static str,
    fixture: Box<dyn Fn() -> Prepare>,
}

impl Case {
    /// `fixture` is made once and lent; `state` is made before each run; only `run` is measured. It should assert what
    /// it gives, and take 10 µs at least: then neither the clock nor the call counts.
    pub fn new<F: 'static, S: 'static, T>(
        name: &'static str,
        fixture: impl Fn() -> F + 'static,
        state: impl Fn(&F) -> S + Clone + 'static,
        run: impl Fn(&F, &mut S) -> T + Clone + 'static,
    ) -> Case {
        let fixture = move || -> Prepare {
            let (held, state, run) = (Rc::new(fixture()), state.clone(), run.clone());
            Box::new(move || {
                let (held, mut state, run) = (held.clone(), state(&held), run.clone());
                Box::new(move || drop(black_box(run(black_box(&*held), black_box(&mut state)))))
            })
        };
        Case { name, fixture: Box::new(fixture) }
    }

    /// A case that changes nothing.
    pub fn reading<F: 'static, T>(
        name: &'static str,
        fixture: impl Fn() -> F + 'static,
        run: impl Fn(&F) -> T + Clone + 'static,
    ) -> Case {
        Case::new(name, fixture, |_| (), move |held, ()| run(held))
    }
}

/// What callgrind looks for by name: `--toggle-collect=measured_case`.
// Not mangled and not inlined, so that the name stands in every build.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured_case(run: &mut dyn FnMut()) {
    run();
}

/// Once to warm allocator, caches and tables that are made on first use, and once measured.
fn once(case: &Case) {
    let mut prepare = (case.fixture)();
    prepare()();
    measured_case(&mut prepare());
}

/// The whole of a benchmark binary.
pub fn main(cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().position(|argument| argument == "--once") {
        Some(at) => {
            let name = arguments.get(at + 1).map(String::as_str).unwrap_or_default();
            let Some(case) = cases.iter().find(|case| case.name == name) else {
                eprintln!("no such case: {name}");
                return ExitCode::FAILURE;
            };
            once(case);
        }
        None if arguments.iter().any(|argument| argument == "--list") => {
            cases.iter().for_each(|case| println!("{}", case.name));
        }
        None => all(cases),
    }
    ExitCode::SUCCESS
}

#[cfg(not(feature = "criterion"))]
fn all(cases: &[Case]) {
    for case in cases {
        once(case);
        println!("{}: carried out", case.name);
    }
    println!("for times: --features cases/criterion; for instruction counts: cargo xtask counts");
}

#[cfg(feature = "criterion")]
fn all(cases: &[Case]) {
    let mut criterion = criterion::Criterion::default().configure_from_args();
    for case in cases {
        criterion.bench_function(case.name, |bencher| {
            let mut prepare = (case.fixture)();
            bencher.iter_batched_ref(&mut prepare, |run| run(), criterion::BatchSize::PerIteration);
        });
    }
    criterion.final_summary();
}
