//! The little XML that S3 speaks: answers as texts by path, requests as strings.
//!
//! # Limits
//! What is given is in memory already; [`TEXTS_MAX`] texts are taken of it, [`DEPTH_MAX`] elements deep.

use quick_xml::Reader;
use quick_xml::events::Event;

const TEXTS_MAX: usize = 32 << 10;
const DEPTH_MAX: usize = 16;

/// The texts of all elements that have one, in order, each with the names of the elements it stands in, joined by slashes.
/// Empty elements count as empty texts.
pub fn texts(xml: &[u8]) -> Result<Vec<(String, String)>, String> {
    let mut reader = Reader::from_reader(xml);
    reader.config_mut().expand_empty_elements = true;
    let (mut path, mut texts) = (Vec::<String>::new(), Vec::new());
    // Text of the element that is open, while it has no element of its own.
    let mut text: Option<String> = None;
    let mut buffer = Vec::new();
    loop {
        let event = reader.read_event_into(&mut buffer).map_err(|error| error.to_string())?;
        match event {
            Event::Start(start) => {
                if path.len() >= DEPTH_MAX {
                    return Err(format!("more than {DEPTH_MAX} elements deep"));
                }
                path.push(String::from_utf8_lossy(start.local_name().as_ref()).into_owned());
                text = Some(String::new());
            }
            Event::End(_) => {
                if let Some(text) = text.take() {
                    if texts.len() >= TEXTS_MAX {
                        return Err(format!("more than {TEXTS_MAX} texts"));
                    }
                    texts.push((path.join("/"), text));
                }
                path.pop();
            }
            Event::Text(octets) => {
                if let Some(text) = &mut text {
                    text.push_str(&octets.decode().map_err(|error| error.to_string())?);
                }
            }
            Event::CData(octets) => {
                if let Some(text) = &mut text {
                    text.push_str(&octets.decode().map_err(|error| error.to_string())?);
                }
            }
            Event::GeneralRef(reference) => {
                let Some(text) = &mut text else { continue };
                if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
                    text.push(character);
                    continue;
                }
                let name = reference.decode().map_err(|error| error.to_string())?;
                text.push(match &*name {
                    "lt" => '<',
                    "gt" => '>',
                    "amp" => '&',
                    "quot" => '"',
                    "apos" => '\'',
                    other => return Err(format!("&{other}; is not known")),
                });
            }
            Event::Eof => match path.is_empty() {
                true => return Ok(texts),
                false => return Err(format!("it ends within <{}>", path.join("/"))),
            },
            _ => {}
        }
        buffer.clear();
    }
}

/// Text as an element may hold it.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_with_their_paths() {
        let xml = b"<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"http://x/\">\n <IsTruncated>true</IsTruncated>\n \
            <Contents><Key>a&amp;b&#x20;c</Key><ETag>&quot;1&quot;</ETag></Contents><Prefix/>\
            <Contents><Key><![CDATA[<d>]]></Key></Contents></ListBucketResult>";
        let texts = texts(xml).unwrap();
        let found: Vec<_> = texts.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(
            found,
            [
                ("ListBucketResult/IsTruncated", "true"),
                ("ListBucketResult/Contents/Key", "a&b c"),
                ("ListBucketResult/Contents/ETag", "\"1\""),
                ("ListBucketResult/Prefix", ""),
                ("ListBucketResult/Contents/Key", "<d>"),
            ]
        );
    }

    #[test]
    fn what_is_no_xml_is_told() {
        for wrong in [&b"<a>"[..], b"<a></b>", b"<a>&nothing;</a>", &b"<a>".repeat(20)] {
            assert!(texts(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(texts(b"").unwrap(), []);
    }

    #[test]
    fn what_is_escaped_is_read_back() {
        let text = "a<b>&\"c\"'é";
        let xml = format!("<Key>{}</Key>", escaped(text));
        assert_eq!(texts(xml.as_bytes()).unwrap(), [("Key".to_owned(), text.to_owned())]);
    }
}
