//! Prepared wire forms: ENVELOPE, BODY and BODYSTRUCTURE as they stand in a FETCH answer.
//!
//! Strings are quoted where they are 7-bit text without CR, LF and NUL, else literals. Header values stand as in the
//! message, unfolded, encoded words and all.
//!
//! # RFC
//! RFC 3501 §7.4.2 and §9 (`envelope`, `body`).

use super::{Address, Content, Disposition, Envelope, Message, Param, Part};
use std::io::Write;

/// `(date subject from sender reply-to to cc bcc in-reply-to message-id)`.
pub fn envelope(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write_envelope(&message.envelope, &mut out);
    out
}

/// The non-extensible form: `BODY`.
pub fn body(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_part(&message.root, false, &mut out);
    out
}

/// The extensible form: `BODYSTRUCTURE`.
pub fn bodystructure(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write_part(&message.root, true, &mut out);
    out
}

/// As a quoted string or a literal. NUL is dropped: neither may hold it.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    if text.contains(&0) {
        let without: Vec<u8> = text.iter().copied().filter(|byte| *byte != 0).collect();
        return write_string(&without, out);
    }
    if text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0x80..)) {
        write_fmt(out, format_args!("{{{}}}\r\n", text.len()));
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// As [`write_string`], or NIL.
pub fn write_nstring<T: AsRef<[u8]>>(text: Option<T>, out: &mut Vec<u8>) {
    match text {
        Some(text) => write_string(text.as_ref(), out),
        None => out.extend_from_slice(b"NIL"),
    }
}

fn write_fmt(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a Vec takes every write");
}

fn write_envelope(envelope: &Envelope, out: &mut Vec<u8>) {
    // RFC 3501 §7.4.2: sender and reply-to that are absent or empty are the same as from.
    let or_from = |list| if <[Address]>::is_empty(list) { &envelope.from[..] } else { list };
    out.push(b'(');
    write_nstring(envelope.date.as_ref(), out);
    out.push(b' ');
    write_nstring(envelope.subject.as_ref(), out);
    let lists = [
        &envelope.from[..],
        or_from(&envelope.sender),
        or_from(&envelope.reply_to),
        &envelope.to,
        &envelope.cc,
        &envelope.bcc,
    ];
    for list in lists {
        out.push(b' ');
        write_addresses(list, out);
    }
    out.push(b' ');
    write_nstring(envelope.in_reply_to.as_ref(), out);
    out.push(b' ');
    write_nstring(envelope.message_id.as_ref(), out);
    out.push(b')');
}

fn write_addresses(list: &[Address], out: &mut Vec<u8>) {
    if list.is_empty() {
        return out.extend_from_slice(b"NIL");
    }
    out.push(b'(');
    for address in list {
        out.push(b'(');
        write_nstring(address.name.as_ref(), out);
        out.push(b' ');
        write_nstring(address.route.as_ref(), out);
        out.push(b' ');
        write_nstring(address.mailbox.as_ref(), out);
        out.push(b' ');
        write_nstring(address.host.as_ref(), out);
        out.push(b')');
    }
    out.push(b')');
}

fn write_part(part: &Part, extended: bool, out: &mut Vec<u8>) {
    out.push(b'(');
    if let Content::Multipart(children) = &part.content {
        for child in children {
            write_part(child, extended, out);
        }
        out.push(b' ');
        write_string(&part.content_type.subtype, out);
        if extended {
            out.push(b' ');
            write_params(&part.content_type.params, out);
        }
    } else {
        write_string(&part.content_type.type_, out);
        out.push(b' ');
        write_string(&part.content_type.subtype, out);
        out.push(b' ');
        write_params(&part.content_type.params, out);
        out.push(b' ');
        write_nstring(part.id.as_ref(), out);
        out.push(b' ');
        write_nstring(part.description.as_ref(), out);
        out.push(b' ');
        // RFC 2045 §6.1: 7BIT where there is no field.
        write_string(if part.encoding.is_empty() { b"7BIT" } else { &part.encoding }, out);
        write_fmt(out, format_args!(" {}", part.body.end - part.body.start));
        if let Content::Message(embedded) = &part.content {
            out.push(b' ');
            write_envelope(&embedded.envelope, out);
            out.push(b' ');
            write_part(&embedded.root, extended, out);
            write_fmt(out, format_args!(" {}", part.lines));
        } else if part.content_type.is_type("text") {
            write_fmt(out, format_args!(" {}", part.lines));
        }
        if extended {
            out.push(b' ');
            write_nstring(part.md5.as_ref(), out);
        }
    }
    if extended {
        out.push(b' ');
        write_disposition(part.disposition.as_ref(), out);
        out.push(b' ');
        write_language(&part.language, out);
        out.push(b' ');
        write_nstring(part.location.as_ref(), out);
    }
    out.push(b')');
}

fn write_params(params: &[Param], out: &mut Vec<u8>) {
    if params.is_empty() {
        return out.extend_from_slice(b"NIL");
    }
    let mut separator = b'(';
    for param in params {
        out.push(separator);
        write_string(&param.name, out);
        out.push(b' ');
        write_string(&param.value, out);
        separator = b' ';
    }
    out.push(b')');
}

fn write_disposition(disposition: Option<&Disposition>, out: &mut Vec<u8>) {
    let Some(disposition) = disposition else { return out.extend_from_slice(b"NIL") };
    out.push(b'(');
    write_string(&disposition.kind, out);
    out.push(b' ');
    write_params(&disposition.params, out);
    out.push(b')');
}

fn write_language(language: &[Vec<u8>], out: &mut Vec<u8>) {
    match language {
        [] => out.extend_from_slice(b"NIL"),
        [one] => write_string(one, out),
        several => {
            let mut separator = b'(';
            for tag in several {
                out.push(separator);
                write_string(tag, out);
                separator = b' ';
            }
            out.push(b')');
        }
    }
}
