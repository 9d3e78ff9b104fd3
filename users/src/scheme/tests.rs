use super::*;

fn fits(stored: &str, password: &[u8]) -> bool {
    let stored = Stored::parse(stored).expect(stored).expect("not locked");
    verify(&stored, password).expect("checked")
}

/// Made by other programs: `doveadm pw`, crypt(3), and RFC 7677 §3 through Python's hashlib.
const STORED: [(&str, &str); 21] = [
    ("{PLAIN}secret", "secret"),
    ("{clear}secret", "secret"),
    ("{PLAIN.B64}dMOkbnplciB4", "t\u{e4}nzer x"),
    ("{plain.hex}74c3a46e7a65722078", "t\u{e4}nzer x"),
    (
        "{SSHA512}AMRF/icZpn40KTw1dMPawK/neXkSWxQ+J7PJ9c8imcxO3QOpn3yLva7rtEqMyrjM20CQF19GAaWF4zJLdqi0FUs4GqE=",
        "secret",
    ),
    (
        "{SSHA512}wobtkth6416v8Xeq7rvnTdJPkfi2osva29t5OZzVVSZ7M/6PxDva35CX8nuYNpexXQcI9gbQYZrwHyI79TNECGdmPrU=",
        "t\u{e4}nzer x",
    ),
    (
        "{SSHA512.HEX}4032fcf94e80dc2f6b9579d7c8b3509b76fdc24bb4e6f45a2c710257fa67e0dba7e994b28dbd940957b67cab3a4bf3cd1df458281322e585a885d0fd8c64d91c7fe88c99",
        "t\u{e4}nzer x",
    ),
    (
        "{ssha512.b64}xOatlv8aaMmO2PwWokCahmZDpu3zXGj5AISoiaaOngYFKUEMeAvuqHFoqNWsB4D2lsOIaDH6KLQ8Qfsa1qWueaFOJ00=",
        "t\u{e4}nzer x",
    ),
    (
        "{SHA512-CRYPT}$6$GhkewZ9LVubAmkX2$ph9QNNDvfiM6BjxSyvaZiOb89.V.ckJ22dUOzieOFEYx.DxI/okRRkBSah1U7ZM3yTV7U4ILYkylG/N3nxsnQ0",
        "t\u{e4}nzer x",
    ),
    (
        "{sha512-crypt}$6$rounds=1500$zm8TuUcPum7SCUKt$OefN3DRIl3HaSDZKuCVYsacrlsjpFXMrpSyeBCE.TEcG1K8sVDuFlJpR9D2PWYRq7wJZSmkTunsGLuYtQuAPl/",
        "secret",
    ),
    (
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        "Hello world!",
    ),
    (
        "{CRYPT}$6$rounds=1400$anotherlongsalts$SAu0xGXppllhPD9yNR32OgiJVhVXUbqF.y4UgOGG7d/nFYCFpaB43f5cW0d.q2OdGqPxRgXYYRc0Cg4uiz4PD/",
        "a short string",
    ),
    ("{BLF-CRYPT}$2y$05$agX9QzU/e87JemHIgvNWQ.wilzBM53YYBSrp87k401y3Muf7hHnja", "t\u{e4}nzer x"),
    ("{CRYPT}$2a$05$abcdefghijklmnopqrstuupMOBDgQXbRSjYa9kYoolrWaQyZmVaSO", "t\u{e4}nzer x"),
    ("$2b$04$abcdefghijklmnopqrstuuPp7HPfoAs8I2dCQCQ/fW7zEJv8I8C8e", "x"),
    (
        "{BLF-CRYPT}$2y$05$6jevadmSG7KvTGv8NFR.YeUNeNsiaCPUSRZJTIDBDLgHQ9RBKC8LC",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    (
        "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$sweI+s5H3bjxJYOKoGTraQ$LmA043DCbYS7tFxrZ4SFpOv8q6Y7mNdSv/8lBSbJra4",
        "t\u{e4}nzer x",
    ),
    (
        "{SCRAM-SHA-256}4096,JuhD7w9sJVwtdb4B2Q2itg==,nU/6+9uJSdzD1iyejCzd4XaufM27DPtpO7tLrpDNEAg=,D5Jy7uu6F8T6oiKM6mqtPVCAJ+pG7nFXMly9pSegrNc=",
        "t\u{e4}nzer x",
    ),
    (
        "{scram-sha-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "pencil",
    ),
    (
        "{SCRAM-SHA-1}4096,QSXCR+Q6sek8bf92,6dlGYMOdZcOPutkcNY8U2g7vK9Y=,D+CSWLOshSulAsxiupA+qs2/fTE=",
        "pencil",
    ),
    (
        "{SHA512-CRYPT}$6$8A4czFD8nOk2cLhb$oNB74e5ajEWLl4njFKQlH9uoFApiokQutOcdlKepL8Mn2Q.Ax2BxvJqAY9Re4Foq6CPRFFMSdiU9LvN1TgGwR0",
        "",
    ),
];

#[test]
fn stored_passwords_of_other_programs_are_taken() {
    for (stored, password) in STORED {
        assert!(fits(stored, password.as_bytes()), "{stored}");
        for wrong in [format!("{password}x"), format!("x{password}"), "wrong".to_owned()] {
            // BLF-CRYPT knows 72 octets only.
            if password.len() < 72 || wrong == "wrong" {
                assert!(!fits(stored, wrong.as_bytes()), "{stored} {wrong}");
            }
        }
        let shown = format!("{:?}", Stored::parse(stored));
        assert!(shown.starts_with("Ok(Some(Stored(") && shown.len() < 40, "{shown}");
    }
}

#[test]
fn a_new_password_fits_and_no_other_does() {
    for scheme in SCHEMES {
        let stored = hash(scheme, "tanstaaf \u{e4}".as_bytes()).expect("hashed");
        assert!(stored.to_ascii_uppercase().starts_with(&format!("{{{scheme}}}")), "{stored}");
        assert!(!stored.contains([':', '\n']), "{stored}");
        assert!(fits(&stored, "tanstaaf \u{e4}".as_bytes()), "{stored}");
        assert!(!fits(&stored, b"tanstaaf"), "{stored}");
        assert_eq!(Scheme::parse(&scheme.name().to_lowercase()), Ok(scheme));
        if scheme != Scheme::Plain {
            assert_ne!(
                stored,
                hash(scheme, "tanstaaf \u{e4}".as_bytes()).expect("hashed"),
                "the salt is fresh"
            );
        }
    }
    let colon = hash(Scheme::Plain, b"a:b").expect("hashed");
    assert!(!colon.contains(':') && fits(&colon, b"a:b"), "{colon}");
}

#[test]
fn what_is_malformed_or_too_costly_is_told_when_it_is_read() {
    use SchemeError::{Malformed, TooCostly, Unknown};
    let hash = "x".repeat(86);
    let key = "A".repeat(43);
    for (stored, expected) in [
        ("{MD5}x".to_owned(), "unknown"),
        ("{}x".to_owned(), "unknown"),
        ("plain".to_owned(), "unknown"),
        ("{SHA512-CRYPT".to_owned(), "unknown"),
        ("$1$salt$hash".to_owned(), "unknown"),
        ("$5$salt$hash".to_owned(), "unknown"),
        ("{PLAIN}".to_owned(), "malformed"),
        ("{PLAIN.rot13}x".to_owned(), "malformed"),
        ("{PLAIN.hex}abc".to_owned(), "malformed"),
        ("{PLAIN.hex}zz".to_owned(), "malformed"),
        ("{SSHA512}AAAA".to_owned(), "malformed"),
        ("{SSHA512}!".to_owned(), "malformed"),
        ("{SHA512-CRYPT}$5$salt$x".to_owned(), "malformed"),
        (format!("$6$salt${hash}$"), "malformed"),
        (format!("$6$salt${hash}x"), "malformed"),
        (format!("$6$seventeen-letters${hash}"), "malformed"),
        (format!("$6$rounds=999$salt${hash}"), "malformed"),
        (format!("$6$rounds=x$salt${hash}"), "malformed"),
        (format!("$6$rounds=999999999$salt${hash}"), "costly"),
        ("{BLF-CRYPT}$2y$05$short".to_owned(), "malformed"),
        ("$2x$05$agX9QzU/e87JemHIgvNWQ.wilzBM53YYBSrp87k401y3Muf7hHnja".to_owned(), "malformed"),
        ("$2y$03$agX9QzU/e87JemHIgvNWQ.wilzBM53YYBSrp87k401y3Muf7hHnja".to_owned(), "malformed"),
        ("$2y$31$agX9QzU/e87JemHIgvNWQ.wilzBM53YYBSrp87k401y3Muf7hHnja".to_owned(), "costly"),
        (
            "$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            "malformed",
        ),
        (format!("$argon2id$v=18$m=64,t=1,p=1$c2FsdHNhbHQ${key}"), "malformed"),
        (format!("$argon2id$v=19$m=64,t=1$c2FsdHNhbHQ${key}"), "malformed"),
        (format!("$argon2id$v=19$m=64,t=1,p=1,x=1$c2FsdHNhbHQ${key}"), "malformed"),
        (format!("$argon2id$v=19$m=64,t=1,p=1$c2Fs${key}"), "malformed"),
        (format!("$argon2id$v=19$m=4,t=1,p=1$c2FsdHNhbHQ${key}"), "malformed"),
        (format!("$argon2id$v=19$m=64,t=0,p=1$c2FsdHNhbHQ${key}"), "malformed"),
        (format!("$argon2id$v=19$m=4000000000,t=1,p=1$c2FsdHNhbHQ${key}"), "costly"),
        (format!("$argon2id$v=19$m=64,t=4000000000,p=1$c2FsdHNhbHQ${key}"), "costly"),
        (format!("{{SCRAM-SHA-256}}0,c2FsdA==,{key}=,{key}="), "malformed"),
        (format!("{{SCRAM-SHA-256}}4294967295,c2FsdA==,{key}=,{key}="), "costly"),
        (format!("{{SCRAM-SHA-256}}4096,,{key}=,{key}="), "malformed"),
        (format!("{{SCRAM-SHA-256}}4096,c2FsdA==,{key}=,AAAA"), "malformed"),
        ("{SCRAM-SHA-256}4096,c2FsdA==".to_owned(), "malformed"),
        (format!("{{SCRAM-SHA-1}}4096,c2FsdA==,{key}=,{key}="), "malformed"),
    ] {
        let got = match Stored::parse(&stored) {
            Err(Unknown(_)) => "unknown",
            Err(Malformed { .. }) => "malformed",
            Err(TooCostly { .. }) => "costly",
            other => panic!("{stored}: {other:?}"),
        };
        assert_eq!(got, expected, "{stored}");
    }
}

#[test]
fn locked_passwords_fit_nothing() {
    for locked in ["", "x", "*", "!", "!!", "*LK*", "!$6$saltstring$x", "{CRYPT}*"] {
        assert!(matches!(Stored::parse(locked), Ok(None)), "{locked}");
    }
}
