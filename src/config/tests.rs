use super::*;

fn mistakes(text: &str) -> Vec<(usize, String)> {
    let mut problems = Problems::new(Path::new("culver.toml"));
    Config::parse(text, true, &mut problems);
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
        ("pop3", "login_delay", ["0s", "60s", "24h"], ["25h", "60", "soon"]),
        ("pop3", "expire", ["never", "30d", "0d"], ["30", "d", "soon"]),
        ("imap", "progress_after", ["10ms", "10s", "10m"], ["9ms", "11m", "10"]),
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
fn mechanisms_are_what_can_work() {
    // The line is the 9th.
    let users = |line: &str| mistakes(&GOOD.replace("[users]\n", &format!("[users]\n{line}\n")));
    for good in ["[\"plain\"]", "[\"PLAIN\", \"scram-sha-1\"]", "[\"scram-sha-256\", \"login\"]"] {
        assert_eq!(users(&format!("mechanisms = {good}")), [], "{good}");
    }
    for bad in
        ["[]", "[\"cram-md5\"]", "[\"scram-sha-1-plus\"]", "[\"oauthbearer\"]", "[\"external\"]", "\"plain\""]
    {
        assert_eq!(users(&format!("mechanisms = {bad}")), [(9, "users.mechanisms".to_owned())], "{bad}");
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = |octets: usize| {
        let file = dir.path().join("secret");
        std::fs::write(&file, vec![b'x'; octets]).unwrap();
        users(&format!("scram_secret_file = \"{}\"", file.display()))
    };
    assert_eq!(secret(16), []);
    assert_eq!(secret(15), [(9, "users.scram_secret_file".to_owned())]);
}

#[test]
fn tokens_are_verified_in_one_way_that_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let secret = file("secret", "s");
    let empty = file("empty", "\n");
    let keys = file(
        "jwks",
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
    );
    // The header stands in line 12.
    let oauth2 = |lines: &str| {
        let mut found = mistakes(&format!("{GOOD}[oauth2]\n{lines}\n"));
        found.sort();
        found
    };
    let url = "introspection_url = \"https://id.example.net/introspect\"";
    let whole = format!("keys_file = \"{keys}\"\nissuer = \"i\"\naudience = \"a\"");
    for good in [
        url.to_owned(),
        "introspection_url = \"http://127.0.0.1:8080\"\ncache = \"0s\"\nleeway = \"0s\"".to_owned(),
        format!(
            "{url}\nclient_id = \"c\"\nclient_secret_file = \"{secret}\"\ntimeout = \"1s\"\nscope = \"a b\""
        ),
        format!("{whole}\nusername_claim = \"sub\"\nopenid_configuration = \"https://id.example.net/x\""),
    ] {
        assert_eq!(oauth2(&good), [], "{good}");
    }
    for (lines, wanted) in [
        ("issuer = \"i\"".to_owned(), &[(12, "introspection_url")][..]),
        (format!("{url}\n{whole}"), &[(14, "keys_file")]),
        (format!("keys_file = \"{keys}\""), &[(13, "keys_file"), (13, "keys_file")]),
        (format!("keys_file = \"{secret}\"\nissuer = \"i\"\naudience = \"a\""), &[(13, "keys_file")]),
        ("introspection_url = \"http://id.example.net/x\"".to_owned(), &[(13, "introspection_url")]),
        ("introspection_url = \"id.example.net\"".to_owned(), &[(13, "introspection_url")]),
        (format!("{url}\nclient_id = \"c\""), &[(14, "client_id")]),
        (format!("{url}\nclient_secret_file = \"{secret}\""), &[(14, "client_secret_file")]),
        (
            format!("{url}\nclient_id = \"c\"\nclient_secret_file = \"{empty}\""),
            &[(15, "client_secret_file")],
        ),
        (
            format!("{url}\nca = \"/nonexistent\"\ncache = \"2h\"\nleeway = \"1h\"\nusername_claim = \"\""),
            &[(14, "ca"), (15, "cache"), (16, "leeway"), (17, "username_claim")],
        ),
        (
            format!("{url}\nopenid_configuration = \"http://x\"\njwks = 1"),
            &[(14, "openid_configuration"), (15, "jwks")],
        ),
    ] {
        let wanted: Vec<_> = wanted.iter().map(|(line, key)| (*line, format!("oauth2.{key}"))).collect();
        assert_eq!(oauth2(&lines), wanted, "{lines}");
    }
    let offered = GOOD.replace("[users]\n", "[users]\nmechanisms = [\"oauthbearer\", \"xoauth2\"]\n");
    assert_eq!(mistakes(&format!("{offered}[oauth2]\n{url}\n")), []);
}

#[test]
fn clients_are_asked_for_certificates_where_they_can_show_them() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (chain, key) = (file("crt", &made.cert.pem()), file("key", &made.signing_key.serialize_pem()));
    let tls = format!("[[tls.certificate]]\nchain = \"{chain}\"\nkey = \"{key}\"\n");
    // The first line is 8.
    let listener = |lines: &str, tls: &str| {
        let text =
            GOOD.replace("[users]\n", &format!("{lines}\n[users]\nmechanisms = [\"plain\", \"external\"]\n"));
        mistakes(&format!("{text}{tls}"))
    };
    let ca = format!("client_ca = \"{chain}\"");
    assert_eq!(listener(&ca, &tls), []);
    assert_eq!(listener(&format!("{ca}\nclient_name = \"common-name\""), &tls), []);
    let wrong = |line, key: &str| (line, key.to_owned());
    assert_eq!(listener(&ca, ""), [wrong(8, "listener.client_ca")]);
    assert_eq!(listener(&format!("client_ca = \"{key}\""), &tls), [wrong(8, "listener.client_ca")]);
    let found = listener("client_name = \"email\"", &tls);
    assert_eq!(found, [wrong(8, "listener.client_name"), wrong(10, "users.mechanisms")]);
    let lmtp = format!("[[listener]]\nservice = \"lmtp\"\naddress = \"127.0.0.1:24\"\n{ca}");
    assert!(listener(&lmtp, &tls).contains(&wrong(11, "listener.client_ca")));
}

#[test]
fn capabilities_are_hidden_by_listener_and_client() {
    let text = GOOD.replace("service = \"imap\"", "service = \"imap\"\nhide_capabilities = [\"NOTIFY\"]");
    let more = "[imap]\n[[imap.client]]\nname = \"Outlook\"\nhide_capabilities = [\"condstore\", \"IDLE\"]\n";
    assert_eq!(mistakes(&format!("{text}{more}")), []);
    let found = mistakes(&format!("{text}{}", more.replace("IDLE", "XYZZY")));
    assert_eq!(
        found.iter().map(|found| found.1.as_str()).collect::<Vec<_>>(),
        ["imap.client.hide_capabilities"]
    );
    let found = mistakes(&format!("{GOOD}[[imap.client]]\nhide_capabilities = [\"IMAP4rev1\"]\n"));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_syntax_error_names_its_line() {
    assert_eq!(mistakes("a = 1\nb = = 2\n").first().map(|found| found.0), Some(2));
}

#[test]
fn mistakes_of_the_whole_have_their_lines_too() {
    let text = "hostname = \"a b\"\n[storage]\nurl = \"file:///s\"\n\
                [[listener]]\nservice = \"imap\"\naddress = \"127.0.0.1:143\"\n\
                [[listener]]\nservice = \"pop3\"\ntls = true\naddress = \"127.0.0.1:143\"\n\
                [users]\nsecure_networks = [\"127.0.0.0/33\",\n  \"foo\", 3]\n\
                [imap]\nlogin_timeout = \"0s\"\n[lmtp]\ntimeout = \"10ms\"\n";
    let found = mistakes(text);
    for (line, key) in [
        (1, "hostname"),
        (9, "listener.tls"),
        (10, "listener.address"),
        (12, "users.secure_networks"),
        (13, "users.secure_networks"),
        (13, "users.secure_networks"),
        (15, "imap.login_timeout"),
        (17, "lmtp.timeout"),
    ] {
        let wanted = (line, key.to_owned());
        let times = |list: &[(usize, String)]| list.iter().filter(|one| **one == wanted).count();
        assert!(times(&found) > 0, "{wanted:?} not in {found:?}");
    }
    assert_eq!(found.iter().filter(|(_, key)| key == "users.secure_networks").count(), 3, "{found:?}");
}

#[test]
fn users_and_certificates_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let made = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (one, two) = (made(), made());
    let chain = file("one.pem", &one.cert.pem());
    let key = file("one.key", &one.signing_key.serialize_pem());
    let other = file("two.key", &two.signing_key.serialize_pem());
    let empty = file("empty.pem", "no certificate\n");
    let passwd = file("passwd", "a@example.test:{NOSUCH}x\nb@example.test:{PLAIN}b\nc/d:{PLAIN}x\n");
    let certificate =
        |chain: &str, key: &str| format!("[[tls.certificate]]\nchain = \"{chain}\"\nkey = \"{key}\"\n");
    let text = format!(
        "[storage]\nurl = \"file:///s\"\n[[listener]]\nservice = \"imap\"\naddress = \"127.0.0.1:143\"\n\
         [users]\npasswd_file = \"{passwd}\"\n\
         [[users.static]]\nname = \"b@example.test\"\npassword = \"{{PLAIN}}b\"\n\
         [[users.static]]\nname = \"x/y\"\npassword = \"{{NOSUCH}}b\"\n{}{}{}",
        certificate(&chain, &key),
        certificate(&chain, &other),
        certificate(&empty, &empty),
    );
    let mut found = mistakes(&text);
    found.sort();
    let wanted = [
        (7, "users.passwd_file"),
        (7, "users.passwd_file"),
        (9, "users.static.name"),
        (12, "users.static.name"),
        (13, "users.static.password"),
        (19, "tls.certificate.key"),
        (21, "tls.certificate.chain"),
        (22, "tls.certificate.key"),
    ];
    assert_eq!(found, wanted.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn a_store_that_nodes_share_needs_a_directory_of_the_node_and_a_name_that_can_be_one() {
    let storage = |lines: &str| mistakes(&GOOD.replace("url = \"file:///var/lib/culver\"", lines));
    let shared = "url = \"s3://mail/p?endpoint=http://127.0.0.1:9000\"\n";
    let whole = format!(
        "{shared}dir = \"/var/lib/culver\"\nnode = \"mail-1\"\nlease = \"10s\"\naddress = \"m1:143\""
    );
    assert_eq!(storage(&whole), []);
    assert_eq!(
        storage(&format!("{whole}\nprices = {{ put = 0.01, get = 1, currency = \"EUR\" }}")).len(),
        1,
        "a table"
    );
    assert_eq!(storage(&format!("{whole}\n[storage.prices]\nput = 0.01\nget = 1\ncurrency = \"EUR\"")), []);
    for (lines, wanted) in [
        ("node = \"mail-1\"", &[(3, "storage.dir")][..]),
        (
            "dir = \"var\"\nnode = \"a/b\"\nlease = \"1s\"",
            &[(5, "storage.dir"), (6, "storage.node"), (7, "storage.lease")],
        ),
        ("dir = \"/d\"\nnode = \"\"", &[(6, "storage.node")]),
        ("dir = \"/d\"\nnode = \"a\"\ncache = \"off\"\npack = \"single\"\ncommit_delivery = \"1s\"", &[]),
        (
            "dir = \"/d\"\nnode = \"a\"\ncache = \"much\"\npack = \"two\"\ncommit_interactive = \"10s\"",
            &[(7, "storage.cache"), (8, "storage.pack"), (9, "storage.commit_interactive")],
        ),
        ("dir = \"/d\"\nnode = \"a\"\nack = \"local\"\nunsent = \"8MiB\"", &[]),
        ("dir = \"/d\"\nnode = \"a\"\nack = \"disk\"", &[(7, "storage.ack")]),
        ("dir = \"/d\"\nnode = \"a\"\nack = \"local\"\nunsent = \"off\"", &[(8, "storage.unsent")]),
        ("dir = \"/d\"\nnode = \"a\"\nunsent = \"8MiB\"", &[(7, "storage.unsent")]),
        ("dir = \"/d\"\nnode = \"a\"\naddress = \"a b\"", &[(7, "storage.address")]),
        (
            "dir = \"/d\"\nnode = \"a\"\n[storage.prices]\nput = -1\nputs = 1",
            &[(8, "storage.prices.put"), (9, "storage.prices.puts")],
        ),
    ] {
        let mut found = storage(&format!("{shared}{lines}"));
        found.sort();
        let wanted: Vec<_> = wanted.iter().map(|(line, key)| (*line, (*key).to_owned())).collect();
        assert_eq!(found, wanted, "{lines}");
    }
}

#[test]
fn a_wrong_store_is_one_mistake_and_what_belongs_to_it_none() {
    let lines = "url = \"s3://M/p?endpiont=x\"\ndir = \"/d\"\nnode = \"a\"\nlease = \"30s\"";
    let found = mistakes(&GOOD.replace("url = \"file:///var/lib/culver\"", lines));
    assert_eq!(found, [(4, "storage.url".to_owned())]);
    let lines = "url = \"file:///d\"\nack = \"local\"";
    let found = mistakes(&GOOD.replace("url = \"file:///var/lib/culver\"", lines));
    assert_eq!(found, [(5, "storage.ack".to_owned())]);
    let lines = "url = \"file:///d\"\nnode = \"a\"\nlease = \"30s\"";
    let found = mistakes(&GOOD.replace("url = \"file:///var/lib/culver\"", lines));
    assert_eq!(found, [(5, "storage.node".to_owned()), (6, "storage.lease".to_owned())]);
}

#[test]
fn a_node_proves_for_half_of_its_lease_at_most() {
    for (lease, proof, look) in [(30, 15_000, 5000), (3600, 15_000, 5000), (4, 2000, 666)] {
        let url = store_url("file:///s?shared=true").unwrap();
        let shared =
            SharedStore { lease: Duration::from_secs(lease), ..SharedStore::new(url, "a".to_owned()) };
        let node = shared.node("h:143".to_owned());
        assert_eq!((node.lease.as_secs(), node.windows.proof.as_millis()), (lease, proof));
        assert_eq!((node.look.as_millis(), node.address.as_str()), (look, "h:143"));
    }
}

#[test]
fn what_an_account_may_have_is_within_bounds() {
    for (section, key, good, bad) in [
        ("quota", "storage", ["\"5GiB\"", "\"off\"", "0"], ["\"5 GB\"", "100", "-1"]),
        ("quota", "messages", ["0", "1000", "1000000"], ["-1", "\"many\"", "1.5"]),
        ("quota", "mailboxes", ["0", "50", "1"], ["-1", "\"off\"", "true"]),
        ("quota", "grace", ["\"10MiB\"", "\"off\"", "1"], ["\"10%\"", "true", "-5"]),
        (
            "quota",
            "admins",
            ["[]", "[\"a@example.test\"]", "[\"A@x\", \"b@x\"]"],
            ["[\"a/b\"]", "\"a@x\"", "[1]"],
        ),
        ("lmtp", "over_quota", ["\"defer\"", "\"bounce\"", "\"defer\""], ["\"reject\"", "true", "0"]),
        (
            "metadata",
            "admin",
            ["\"mailto:a@x\"", "\"tel:+1\"", "\"https://x/y\""],
            ["\"me\"", "\":x\"", "\"mailto: a\""],
        ),
        ("metadata", "comment", ["\"x\"", "\"Grüße\"", "\"\""], ["1", "\"a\\u0000b\"", "[]"]),
        ("metadata", "value_octets_max", ["1024", "\"64KiB\"", "\"1MiB\""], ["1023", "\"2MiB\"", "\"x\""]),
        ("metadata", "entries_max", ["10", "100", "10000"], ["9", "10001", "\"10\""]),
        ("metadata", "octets_max", ["\"64KiB\"", "\"1MiB\"", "\"4MiB\""], ["\"63KiB\"", "\"5MiB\"", "0"]),
    ] {
        let found = |value: &str| mistakes(&format!("{GOOD}[{section}]\n{key} = {value}\n"));
        for value in good {
            assert_eq!(found(value), [], "{key} = {value}");
        }
        for value in bad {
            assert_eq!(found(value), [(13, format!("{section}.{key}"))], "{key} = {value}");
        }
    }
    assert_eq!(mistakes(&format!("{GOOD}[quota]\nsize = 5\n")), [(13, "quota.size".to_owned())]);
}
