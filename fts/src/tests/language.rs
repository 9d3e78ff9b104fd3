//! Languages and stems, against the vocabularies of Snowball and texts of known languages.

use super::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn corpus(path: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let path = std::env::var_os("CULVER_CORPUS").map_or(beside, PathBuf::from).join(path);
    if !path.exists() {
        println!("skipped: no corpus");
        return None;
    }
    Some(path)
}

#[test]
fn codes_are_parsed() {
    assert_eq!(Languages::parse("en, de").unwrap().to_string(), "en de");
    assert_eq!(Languages::parse("en, xx"), Err("xx"));
    for language in Language::ALL {
        assert_eq!(Language::of_code(language.code()), Some(language));
        assert_eq!(Language::ALL[language as usize], language);
    }
}

#[test]
fn stems_are_those_of_snowball() {
    let Some(folder) = corpus("vectors/snowball") else { return };
    let mut differ: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, language) in [
        ("dutch", Language::Dutch),
        ("english", Language::English),
        ("finnish", Language::Finnish),
        ("french", Language::French),
        ("german", Language::German),
        ("italian", Language::Italian),
        ("portuguese", Language::Portuguese),
        ("russian", Language::Russian),
        ("spanish", Language::Spanish),
        ("swedish", Language::Swedish),
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.tsv"))).unwrap();
        let mut count = 0;
        for (word, stem) in text.lines().filter_map(|line| line.split_once('\t')) {
            count += 1;
            let found = waken_snowball::stem(language.algorithm(), word);
            if found != stem {
                differ.entry(name).or_default().push(format!("{word}\t{stem}\t{found}"));
            }
        }
        assert!(count > 1_500, "{name}: {count}");
    }
    for (name, words) in &differ {
        println!("{name}: {} differ: {words:?}", words.len());
    }
    // The vocabularies are of May 2026, the stemmers of Snowball 3.0.0. The one word that became another stem since:
    let other_generation = ("english", vec!["internalness\tinternal\tintern".to_owned()]);
    assert_eq!(differ.into_iter().collect::<Vec<_>>(), [other_generation]);
}

#[test]
fn any_word_has_a_stem() {
    for language in Language::ALL {
        for word in
            ["", "a", "\u{301}", "\u{e9}\u{e9}", "\u{1f600}x", "e\u{301}", "iiiii", "\u{131}\u{307}", "yyy'"]
        {
            language.stem(word);
        }
        for word in language.function_words().split_ascii_whitespace() {
            language.stem(&fold(word));
        }
    }
}
