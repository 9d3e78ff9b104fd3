use super::*;

fn mistakes(text: &str) -> Vec<(usize, String)> {
    let mut problems = Problems::new(std::path::Path::new("culver.toml"));
    Config::parse(text, &mut problems);
    problems.list.into_iter().map(|problem| (problem.line, problem.key)).collect()
}

const GOOD: &str = r#"
hostname = "mail.example.test"
[storage]
url = "file:///var/lib/culver"
[[listener]]
service = "imap"
address = "127.0.0.1:143"
[users]
[[users.static]]
name = "alice@example.test"
password = "{PLAIN}alice"
"#;

#[test]
fn a_good_file_has_no_mistakes() {
    assert_eq!(mistakes(GOOD), []);
}

#[test]
fn all_mistakes_are_found_in_one_reading() {
    let text = "shards = \"two\"\ncolour = 1\n[storage]\nurl = \"ftp://x\"\n[[listener]]\nservice = \"imap\"\naddress = \"nowhere\"\n[imap]\ninactivity = \"1m\"\n";
    let found = mistakes(text);
    for expected in
        [(1, "shards"), (2, "colour"), (4, "storage.url"), (7, "listener.address"), (9, "imap.inactivity")]
    {
        assert!(found.contains(&(expected.0, expected.1.to_owned())), "{expected:?} not in {found:?}");
    }
}

#[test]
fn durations_have_bounds() {
    for (section, key, good, bad) in [
        ("imap", "idle_keepalive", ["1s", "2m", "29m"], ["999ms", "30m", "soon"]),
        ("imap", "sleep_after", ["1s", "10s", "24h"], ["0s", "25h", "10"]),
        ("pop3", "lock_silence", ["1s", "60s", "10m"], ["0s", "11m", "60"]),
    ] {
        let found = |value: &str| mistakes(&format!("{GOOD}[{section}]\n{key} = \"{value}\"\n"));
        for value in good {
            assert_eq!(found(value), [], "{key} = {value}");
        }
        for value in bad {
            assert_eq!(found(value), [(13, format!("{section}.{key}"))], "{key} = {value}");
        }
    }
}

#[test]
fn a_syntax_error_names_its_line() {
    assert_eq!(mistakes("a = 1\nb = = 2\n").first().map(|found| found.0), Some(2));
}
