//! Reading TOML so that every mistake is found, each with its line and what to write instead.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml_edit::{Document, Item, Table, Value};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    pub key: String,
    pub what: String,
    pub remedy: String,
}

/// All mistakes of one file.
#[derive(Debug)]
pub struct Problems {
    file: PathBuf,
    pub list: Vec<Problem>,
}

impl Problems {
    pub fn new(file: &Path) -> Problems {
        Problems { file: file.to_owned(), list: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn at(&mut self, line: usize, key: &str, what: &str, remedy: &str) {
        let (key, what, remedy) = (key.to_owned(), what.to_owned(), remedy.to_owned());
        self.list.push(Problem { line, key, what, remedy });
    }

    pub fn whole(&mut self, what: &str, remedy: &str) {
        self.at(0, "", what, remedy);
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = self.list.clone();
        list.sort_by_key(|problem| problem.line);
        for problem in &list {
            write!(f, "{}", self.file.display())?;
            if problem.line > 0 {
                write!(f, ":{}", problem.line)?;
            }
            let space = if problem.key.is_empty() { "" } else { " " };
            writeln!(f, ": {}{space}{}\n    remedy: {}", problem.key, problem.what, problem.remedy)?;
        }
        let plural = if list.len() == 1 { "" } else { "s" };
        write!(f, "{} mistake{plural}", list.len())
    }
}

impl std::error::Error for Problems {}

/// A table, and which of its keys were asked for; what was never asked for is a mistake.
pub struct Section {
    path: String,
    line: usize,
    entries: Vec<Entry>,
    asked: Vec<String>,
}

struct Entry {
    key: String,
    line: usize,
    item: Item,
    lines: std::rc::Rc<Lines>,
}

struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

impl Section {
    pub fn root(text: &str, problems: &mut Problems) -> Option<Section> {
        let lines = std::rc::Rc::new(Lines::of(text));
        match Document::parse(text) {
            Ok(document) => Some(Section::of(String::new(), 1, document.as_table(), &lines)),
            Err(error) => {
                let line = error.span().map_or(0, |span| lines.line(span.start));
                let what = error.message().lines().next().unwrap_or("is not TOML").to_owned();
                problems.at(
                    line,
                    "",
                    &what,
                    "mend the TOML syntax at this line; other mistakes show once it can be read",
                );
                None
            }
        }
    }

    fn of(path: String, line: usize, table: &Table, lines: &std::rc::Rc<Lines>) -> Section {
        let mut entries = Vec::new();
        for (key, item) in table {
            let span = table.key(key).and_then(|key| key.span()).or_else(|| item.span());
            let line = span.map_or(line, |span| lines.line(span.start));
            entries.push(Entry { key: key.to_owned(), line, item: item.clone(), lines: lines.clone() });
        }
        Section { path, line, entries, asked: Vec::new() }
    }

    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn ask(&mut self, key: &str) -> Option<&Entry> {
        self.asked.push(key.to_owned());
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// The key stands there, right or wrong.
    pub fn known(&self, key: &str) -> bool {
        self.has(key)
    }

    /// Where the key stands; the section, where it does not.
    pub fn line_of(&self, key: &str) -> usize {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.line, |entry| entry.line)
    }

    pub fn missing(&self, key: &str, remedy: &str, problems: &mut Problems) {
        problems.at(self.line, &self.name(key), "is missing", &format!("write {remedy}"));
    }

    /// A table of this name; an empty one where it is absent.
    pub fn section(&mut self, key: &str, problems: &mut Problems) -> Section {
        let path = self.name(key);
        let line = self.line;
        let Some(entry) = self.ask(key) else {
            return Section { path, line, entries: Vec::new(), asked: Vec::new() };
        };
        match entry.item.as_table() {
            Some(table) => Section::of(path, entry.line, table, &entry.lines),
            None => {
                problems.at(entry.line, &path, "is not a table", &format!("write [{path}]"));
                Section { path, line, entries: Vec::new(), asked: Vec::new() }
            }
        }
    }

    /// An array of tables.
    pub fn sections(&mut self, key: &str, problems: &mut Problems) -> Vec<Section> {
        let path = self.name(key);
        let Some(entry) = self.ask(key) else { return Vec::new() };
        match entry.item.as_array_of_tables() {
            Some(tables) => tables
                .iter()
                .map(|table| {
                    let line = table.span().map_or(entry.line, |span| entry.lines.line(span.start));
                    Section::of(path.clone(), line, table, &entry.lines)
                })
                .collect(),
            None => {
                problems.at(entry.line, &path, "is not an array of tables", &format!("write [[{path}]]"));
                Vec::new()
            }
        }
    }

    fn value<T>(
        &mut self,
        key: &str,
        wanted: &str,
        problems: &mut Problems,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<(T, usize)> {
        let path = self.name(key);
        let entry = self.ask(key)?;
        match entry.item.as_value().and_then(read) {
            Some(value) => Some((value, entry.line)),
            None => {
                problems.at(entry.line, &path, &format!("is not {wanted}"), &format!("write {wanted}"));
                None
            }
        }
    }

    pub fn text_at(&mut self, key: &str, problems: &mut Problems) -> Option<(String, usize)> {
        self.value(key, "a string in quotes", problems, |value| value.as_str().map(str::to_owned))
    }

    /// The strings of an array, with their lines; what is no string among them is a mistake of its own.
    pub fn texts_at(&mut self, key: &str, problems: &mut Problems) -> Option<Vec<(String, usize)>> {
        let path = self.name(key);
        let (array, line) =
            self.value(key, "an array of strings", problems, |value| value.as_array().cloned())?;
        let lines = self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.lines.clone());
        let mut texts = Vec::new();
        for value in &array {
            let line = match (&lines, value.span()) {
                (Some(lines), Some(span)) => lines.line(span.start),
                _ => line,
            };
            match value.as_str() {
                Some(text) => texts.push((text.to_owned(), line)),
                None => {
                    let what = format!("has a {} in it, which is no string", value.type_name());
                    problems.at(line, &path, &what, "put it in quotes, or remove it");
                }
            }
        }
        Some(texts)
    }

    pub fn required_text(
        &mut self,
        key: &str,
        remedy: &str,
        problems: &mut Problems,
    ) -> Option<(String, usize)> {
        if !self.has(key) {
            self.asked.push(key.to_owned());
            self.missing(key, remedy, problems);
            return None;
        }
        self.text_at(key, problems)
    }

    pub fn flag_at(&mut self, key: &str, problems: &mut Problems) -> Option<(bool, usize)> {
        self.value(key, "true or false", problems, Value::as_bool)
    }

    pub fn flag(&mut self, key: &str, problems: &mut Problems, put: impl FnOnce(bool)) {
        if let Some((value, _)) = self.flag_at(key, problems) {
            put(value);
        }
    }

    pub fn number(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        problems: &mut Problems,
        put: impl FnOnce(i64),
    ) {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let value =
            self.value(key, &wanted, problems, |value| value.as_integer().filter(|n| range.contains(n)));
        if let Some((value, _)) = value {
            put(value);
        }
    }

    pub fn octets(&mut self, key: &str, problems: &mut Problems, put: impl FnOnce(u64)) {
        let wanted = "a size such as \"64MiB\", \"512KiB\" or a number of octets";
        if let Some((value, _)) = self.value(key, wanted, problems, parse_octets) {
            put(value);
        }
    }

    pub fn octets_within(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        problems: &mut Problems,
        put: impl FnOnce(u64),
    ) {
        let wanted = format!("a size such as \"64KiB\", from {} to {} octets", range.start(), range.end());
        let value = self.value(key, &wanted, problems, |value| {
            parse_octets(value).filter(|octets| range.contains(octets))
        });
        if let Some((value, _)) = value {
            put(value);
        }
    }

    /// A size within bounds, or 0 for `0` and `"off"`.
    pub fn octets_or_off_within(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        problems: &mut Problems,
    ) -> Option<u64> {
        let (least, most) = (range.start(), range.end());
        let wanted = format!("a size such as \"4GiB\", from {least} to {most} octets, or \"off\"");
        let read = |value: &Value| match (value.as_str(), value.as_integer()) {
            (Some("off"), _) | (_, Some(0)) => Some(0),
            _ => parse_octets(value).filter(|octets| range.contains(octets)),
        };
        self.value(key, &wanted, problems, read).map(|(value, _)| value)
    }

    /// A size, or 0 for `"off"`.
    pub fn octets_or_off(&mut self, key: &str, problems: &mut Problems) -> Option<(u64, usize)> {
        self.value(key, "a size such as \"4GiB\", or \"off\"", problems, |value| match value.as_str() {
            Some("off") => Some(0),
            _ => parse_octets(value),
        })
    }

    /// A price: a number that is not negative.
    pub fn price(&mut self, key: &str, problems: &mut Problems, put: impl FnOnce(f64)) {
        let value = self.value(key, "a price such as 0.005", problems, |value| {
            let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))?;
            Some(number).filter(|number| number.is_finite() && *number >= 0.0)
        });
        if let Some((value, _)) = value {
            put(value);
        }
    }

    pub fn duration_at(&mut self, key: &str, problems: &mut Problems) -> Option<(Duration, usize)> {
        self.value(key, "a duration such as \"30s\", \"5m\" or \"1h\"", problems, |value| {
            parse_duration(value.as_str()?)
        })
    }

    pub fn duration(&mut self, key: &str, problems: &mut Problems, put: impl FnOnce(Duration)) {
        if let Some((value, _)) = self.duration_at(key, problems) {
            put(value);
        }
    }

    pub fn duration_within(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
        problems: &mut Problems,
        put: impl FnOnce(Duration),
    ) {
        let wanted = format!("a duration from {:?} to {:?}, in quotes", range.start(), range.end());
        let value = self.value(key, &wanted, problems, |value| {
            parse_duration(value.as_str()?).filter(|duration| range.contains(duration))
        });
        if let Some((value, _)) = value {
            put(value);
        }
    }

    pub fn choice(&mut self, key: &str, among: &[&str], problems: &mut Problems, put: impl FnOnce(usize)) {
        let wanted =
            format!("one of {}", among.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", "));
        let value = self.value(key, &wanted, problems, |value| {
            let value = value.as_str()?;
            among.iter().position(|one| *one == value)
        });
        if let Some((value, _)) = value {
            put(value);
        }
    }

    /// Every key that nobody asked for is a mistake.
    pub fn finish(&self, problems: &mut Problems) {
        for entry in &self.entries {
            if !self.asked.contains(&entry.key) {
                let mut known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
                known.sort_unstable();
                known.dedup();
                let remedy = format!("remove it, or use one of: {}", known.join(", "));
                problems.at(entry.line, &self.name(&entry.key), "is not a known key", &remedy);
            }
        }
    }
}

fn parse_octets(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_integer() {
        return u64::try_from(number).ok().filter(|number| *number > 0);
    }
    let text = value.as_str()?;
    let split = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|octets| *octets > 0)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}
