//! AUTHENTICATE and AUTH: SCRAM with and without a bound channel, tokens, certificates; each test with its own server.

mod issuer;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::KeyPair;

use crate::support::connection::Connection;
use crate::support::process::{need, run, run_ok, signal};
use crate::support::server::{Culver, Options, binary, own_process, password, user};
use crate::support::{Fallible, eventually};
use crate::{Test, ensure};
use issuer::{Answer, Issuer};

const LIMIT: Duration = Duration::from_secs(120);

pub fn tests() -> Vec<Test> {
    vec![
        Test { name: "sasl_scram_binds_to_the_channel", run: |_| scram() },
        Test { name: "sasl_scram_is_held_back_and_counted", run: |_| scram_penalty() },
        Test { name: "sasl_scram_plus_of_gsasl", run: |_| gsasl() },
        Test { name: "sasl_tokens_are_asked_about", run: |_| introspection() },
        Test { name: "sasl_tokens_go_to_no_other_issuer", run: |_| issuer_over_tls() },
        Test { name: "sasl_tokens_are_verified", run: |_| jwt() },
        Test { name: "sasl_external_is_who_the_certificate_names", run: |_| external() },
        Test { name: "sasl_mistakes_of_the_configuration_are_told", run: |_| mistakes() },
    ]
}

fn configured(name: &str, lines: &[&str]) -> Fallible<Culver> {
    own_process()?;
    Culver::configured(name, Options { accounts: 4, ..Options::default() }, lines)
}

/// What `culver hash-password` makes.
fn stored(scheme: &str, password: &str) -> Fallible<String> {
    let mut command = Command::new(binary()?);
    command.args(["hash-password", "--scheme", scheme]);
    let said = run_ok(&mut command, format!("{password}\n").as_bytes(), LIMIT)?;
    let line = said.lines().rev().find(|line| line.starts_with('{'));
    Ok(line.ok_or_else(|| format!("hash-password: {said}"))?.to_owned())
}

/// The passwd-file anew, of users 0 and on.
fn users(culver: &Culver, stored: &[String]) -> Fallible {
    let lines = stored.iter().enumerate().map(|(n, stored)| format!("{}:{stored}\n", user(n)));
    Ok(fs::write(culver.passwd_file(), lines.collect::<String>())?)
}

/// Runs the client with what it needs to know.
fn session(culver: &Culver, case: &str) -> Fallible<String> {
    need("python3")?;
    let file = culver.data().join("case.json");
    let ports = format!("\"imap\":{},\"pop3\":{}", culver.ports.imap.port(), culver.ports.pop3.port());
    fs::write(&file, format!("{{{ports},{case}}}"))?;
    let mut command = Command::new("python3");
    command.args(["-I", "-"]).arg(&file);
    run_ok(&mut command, include_bytes!("sasl/session.py"), LIMIT)
}

fn ask(connection: &mut Connection, line: &str) -> Fallible<String> {
    connection.send_line(line)?;
    connection.read_line()
}

/// A connection of IMAP, and its greeting.
fn imap(culver: &Culver) -> Fallible<(Connection, String)> {
    let mut connection = Connection::open(culver.ports.imap)?;
    let greeting = connection.read_line()?;
    Ok((connection, greeting))
}

/// RFC 5802, 7677, 5929; that nobody learns which names there are.
fn scram() -> Fallible {
    let mut culver = configured("scram", &["log.level = \"info\""])?;
    // As quickstart stores passwords, SCRAM cannot be done.
    let (_, greeting) = imap(&culver)?;
    ensure!(greeting.contains("AUTH=PLAIN") && !greeting.contains("SCRAM"), "{greeting}");
    users(&culver, &[format!("{{PLAIN}}{}", password(0)), stored("SCRAM-SHA-256", &password(1))?])?;
    signal(culver.pid().ok_or("it runs")?, "HUP")?;
    eventually("SCRAM is offered once all users can", Duration::from_secs(10), || {
        // Both shards take connections.
        for _ in 0..8 {
            if !imap(&culver)?.1.contains("AUTH=SCRAM-SHA-256 ") {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    let who = |n| format!("[\"{}\",\"{}\"]", user(n), password(n));
    let case = format!("\"mode\":\"scram\",\"users\":[{},{}]", who(0), who(1));
    session(&culver, &case)?;
    ensure!(culver.log().contains("by=\"scram\""), "the log names the way");

    // With a secret of the site's own, salts outlive the process.
    let secret = culver.data().join("scram-secret");
    fs::write(&secret, "thirty-two octets that are secret")?;
    let line = format!("users.scram_secret_file = \"{}\"", secret.display());
    culver.configure(&[&line])?;
    let salts = session(&culver, &case)?;
    culver.configure(&[&line])?;
    let salts = salts.trim().replace('\\', "\\\\").replace('"', "\\\"");
    session(&culver, &format!("{case},\"salts\":\"{salts}\""))?;

    // What is configured is what there is.
    culver.configure(&["users.mechanisms = [\"scram-sha-1\"]"])?;
    let (mut connection, greeting) = imap(&culver)?;
    let listed = " SASL-IR AUTH=SCRAM-SHA-1 LOGINDISABLED";
    ensure!(greeting.contains(listed), "{greeting}");
    let login = format!("a LOGIN {} {}", user(0), password(0));
    let said = ask(&mut connection, &login)?;
    ensure!(said.starts_with("a NO [CANNOT]"), "{said}");
    let said = ask(&mut connection, "b AUTHENTICATE PLAIN")?;
    ensure!(said.starts_with("b NO [CANNOT]"), "{said}");
    culver.terminate()
}

/// The penalty and the counters are those of passwords.
fn scram_penalty() -> Fallible {
    let lines = ["users.secure_networks = [\"192.0.2.0/24\"]", "limits.connections_per_user_max = 1"];
    let mut culver = configured("scram-penalty", &lines)?;
    users(&culver, &[format!("{{PLAIN}}{}", password(0))])?;
    culver.configure(&lines)?;
    session(&culver, &format!("\"mode\":\"penalty\",\"users\":[[\"{}\",\"{}\"]]", user(0), password(0)))?;
    culver.terminate()
}

/// A client of others, which binds to TLS 1.3 by tls-exporter (RFC 9266).
fn gsasl() -> Fallible {
    need("gsasl")?;
    let mut culver = configured("gsasl", &[])?;
    users(&culver, &[format!("{{PLAIN}}{}", password(0)), stored("SCRAM-SHA-1", &password(1))?])?;
    culver.configure(&["users.mechanisms = [\"scram-sha-256\", \"scram-sha-1\"]"])?;
    let certificate = culver.data().join("tls-cert.pem");
    let log_in = |mechanism: &str, account: usize, password: &str| {
        let mut command = Command::new("gsasl");
        command.arg("--imap").arg(format!("--connect=localhost:{}", culver.ports.imap.port()));
        command.args([
            "--mechanism",
            mechanism,
            "--authentication-id",
            &user(account),
            "--password",
            password,
        ]);
        command.arg("--x509-ca-file").arg(&certificate).args(["--verbose", "--authorization-id", ""]);
        if !mechanism.ends_with("-PLUS") {
            command.arg("--no-cb");
        }
        run(&mut command, b"", LIMIT)
    };
    for (mechanism, account) in
        [("SCRAM-SHA-256", 0), ("SCRAM-SHA-256-PLUS", 0), ("SCRAM-SHA-1-PLUS", 1), ("SCRAM-SHA-1-PLUS", 0)]
    {
        let done = log_in(mechanism, account, &password(account))?;
        ensure!(done.code == Some(0) && done.output.contains(" OK "), "{mechanism}: {}", done.output);
        let done = log_in(mechanism, account, "wrong")?;
        ensure!(done.output.contains("NO [AUTHENTICATIONFAILED]"), "{mechanism}: {}", done.output);
    }
    let done = log_in("SCRAM-SHA-256-PLUS", 1, &password(1))?;
    ensure!(done.output.contains("NO [AUTHENTICATIONFAILED]"), "stored for the other hash: {}", done.output);
    culver.terminate()
}

fn xoauth2(user: &str, token: &str) -> String {
    STANDARD.encode(format!("user={user}\x01auth=Bearer {token}\x01\x01"))
}

fn bearer(user: &str, token: &str) -> String {
    STANDARD.encode(format!("n,a={user},\x01host=localhost\x01auth=Bearer {token}\x01\x01"))
}

/// The last answer to both mechanisms, with the challenge before it where there is one.
fn tried(culver: &Culver, user: &str, token: &str) -> Fallible<Vec<String>> {
    let mut said = Vec::new();
    for (mechanism, message, dummy) in
        [("XOAUTH2", xoauth2(user, token), ""), ("OAUTHBEARER", bearer(user, token), "AQ==")]
    {
        let (mut connection, _) = imap(culver)?;
        let mut line = ask(&mut connection, &format!("a AUTHENTICATE {mechanism} {message}"))?;
        if let Some(challenge) = line.strip_prefix("+ ") {
            let why = String::from_utf8(STANDARD.decode(challenge)?)?;
            line = format!("{why} {}", ask(&mut connection, dummy)?);
        }
        said.push(line);
        let mut connection = Connection::open(culver.ports.pop3)?;
        connection.read_line()?;
        let mut line = ask(&mut connection, &format!("AUTH {mechanism} {message}"))?;
        if line.starts_with("+ ") {
            line = ask(&mut connection, dummy)?;
        }
        said.push(line);
    }
    Ok(said)
}

fn all(said: &[String], imap: &str, pop3: &str) -> Fallible {
    for (line, expected) in said.iter().zip([imap, pop3].iter().cycle()) {
        ensure!(line.contains(expected), "{expected} expected: {said:?}");
    }
    Ok(())
}

/// RFC 7628, RFC 7662.
fn introspection() -> Fallible {
    let issuer = Issuer::start()?;
    let mut culver = configured("introspection", &[])?;
    let secret = culver.data().join("client-secret");
    fs::write(&secret, "s3cr+t\n")?;
    let url = format!("oauth2.introspection_url = \"http://{}/introspect?x=y\"", issuer.address);
    let file = format!("oauth2.client_secret_file = \"{}\"", secret.display());
    let (timeout, cache) = ("oauth2.timeout = \"1s\"", "oauth2.cache = \"1h\"");
    let (id, scope) = ("oauth2.client_id = \"culver\"", "oauth2.scope = \"mail.read\"");
    let configuration =
        "oauth2.openid_configuration = \"https://id.example.net/.well-known/openid-configuration\"";
    let mut lines = vec![&*url, &file, timeout, cache, id, scope, configuration, "log.level = \"info\""];
    culver.configure(&lines)?;
    let (_, greeting) = imap(&culver)?;
    ensure!(greeting.contains("AUTH=OAUTHBEARER AUTH=XOAUTH2 AUTH=PLAIN"), "{greeting}");
    let active = |name: &str| {
        Answer::Json(format!("{{\"active\":true,\"scope\":\"x mail.read\",\"email\":\"{name}\"}}"))
    };
    issuer.says("good", active("U000@example.test"));
    issuer.says("stranger", active("nobody@example.test"));
    issuer.says("narrow", Answer::Json(r#"{"active":true,"email":"u000@example.test"}"#.to_owned()));
    issuer.says("broken", Answer::Status(500));
    issuer.says("html", Answer::Json("<html>".to_owned()));
    issuer.says("silent", Answer::Silence);
    all(&tried(&culver, &user(0), "good")?, "a OK", "+OK")?;
    let (asked, question) = issuer.asked("good");
    let (head, body) = question.ok_or("it was asked")?;
    ensure!(asked == 1, "a good token is remembered: asked {asked} times");
    ensure!(head.starts_with("POST /introspect?x=y HTTP/1.1"), "{head}");
    // "culver:s3cr%2Bt"
    ensure!(
        head.to_lowercase().contains("authorization: basic") && head.contains("Y3VsdmVyOnMzY3IlMkJ0"),
        "{head}"
    );
    ensure!(body == "token=good&token_type_hint=access_token", "{body}");
    let failed = "NO [AUTHENTICATIONFAILED]";
    for (user, token) in [
        (user(1), "good"),
        (user(0), "other"),
        (user(0), "narrow"),
        ("nobody@example.test".to_owned(), "stranger"),
    ] {
        let said = tried(&culver, &user, token)?;
        all(&said, failed, "-ERR [AUTH]")?;
        ensure!(
            said[0].starts_with(r#"{"status":"401","schemes":"bearer","scope":"mail.read"}"#),
            "{said:?}"
        );
        let why = r#"{"status":"invalid_token","scope":"mail.read","openid-configuration":"https://id.example.net/.well-known/openid-configuration"}"#;
        ensure!(said[2].starts_with(why), "{said:?}");
    }
    // Where nobody answers, it is no verdict.
    for token in ["broken", "html", "silent"] {
        let began = Instant::now();
        all(&tried(&culver, &user(0), token)?, "a NO [UNAVAILABLE]", "-ERR [SYS/TEMP]")?;
        ensure!(began.elapsed() < Duration::from_secs(15), "{token}: {:?}", began.elapsed());
    }
    // A password does as ever, and a server that waits for an issuer serves others.
    let (mut waiting, _) = imap(&culver)?;
    waiting.send_line(&format!("a AUTHENTICATE XOAUTH2 {}", xoauth2(&user(0), "silent")))?;
    let (mut connection, _) = imap(&culver)?;
    let said = ask(&mut connection, &format!("a LOGIN {} {}", user(2), password(2)))?;
    ensure!(said.starts_with("a OK"), "{said}");
    // A client of others, which takes the first that it knows.
    for (mechanism, named) in [
        ("XOAUTH2", "users.mechanisms = [\"xoauth2\"]"),
        ("OAUTHBEARER", "users.mechanisms = [\"oauthbearer\"]"),
    ] {
        need("curl")?;
        lines.push(named);
        culver.configure(&lines)?;
        lines.pop();
        let mut command = Command::new("curl");
        command.args([
            "-sv",
            "--oauth2-bearer",
            "good",
            "-u",
            &format!("{}:", user(0)),
            "-X",
            "EXAMINE INBOX",
        ]);
        command.arg(format!("imap://{}/", culver.ports.imap));
        let said = run_ok(&mut command, b"", LIMIT)?;
        ensure!(said.contains(&format!("AUTHENTICATE {mechanism} ")), "{mechanism}: {said}");
    }
    let log = culver.log();
    for token in ["=good", "\"good", "s3cr"] {
        ensure!(!log.contains(token), "the log shows {token}");
    }
    ensure!(log.contains("tokens cannot be verified") && log.contains("500"), "the log says why");
    culver.terminate()
}

/// An issuer over TLS, for whom every token is user 0's; it says its port.
const TLS_ISSUER: &str = r#"
import http.server, ssl, sys
class Issuer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        answer = b'{"active":true,"email":"u000@example.test"}'
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// Ends a process with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// RFC 7662 §4: the issuer proves who it is before it sees a token.
fn issuer_over_tls() -> Fallible {
    need("python3")?;
    need("openssl")?;
    let mut culver = configured("issuer", &[])?;
    let dir = culver.data();
    let mut command = Command::new("python3");
    command.args(["-I", "-c", TLS_ISSUER]).arg(dir.join("tls-cert.pem")).arg(dir.join("tls-key.pem"));
    let mut issuer = Ended(command.stdout(Stdio::piped()).spawn()?);
    let mut port = String::new();
    BufReader::new(issuer.0.stdout.take().ok_or("stdout is piped")?).read_line(&mut port)?;
    let url = format!("oauth2.introspection_url = \"https://localhost:{}/introspect\"", port.trim());
    openssl(&dir, "req -x509 -newkey rsa:2048 -nodes -subj /CN=CA -days 30 -keyout ca.key -out ca.crt")?;
    let trusted = |file: &str| format!("oauth2.ca = \"{}\"", dir.join(file).display());
    let is_trusted = trusted("tls-cert.pem");
    culver.configure(&[&url, &is_trusted])?;
    all(&tried(&culver, &user(0), "any")?, "a OK", "+OK")?;
    all(&tried(&culver, &user(1), "any")?, "NO [AUTHENTICATIONFAILED]", "-ERR [AUTH]")?;
    let other = trusted("ca.crt");
    culver.configure(&[&url, &other])?;
    all(&tried(&culver, &user(0), "any")?, "a NO [UNAVAILABLE]", "-ERR [SYS/TEMP]")?;
    ensure!(culver.log().contains("tokens cannot be verified"), "the log says why");
    culver.terminate()
}

/// RFC 7519, with keys of a file.
fn jwt() -> Fallible {
    let random = ring::rand::SystemRandom::new();
    let key = ring::signature::Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| "no key")?;
    let key = ring::signature::Ed25519KeyPair::from_pkcs8(key.as_ref()).map_err(|_| "no key")?;
    let mut culver = configured("jwt", &[])?;
    let file = culver.data().join("jwks.json");
    let set = |point: &[u8]| {
        let point = URL_SAFE_NO_PAD.encode(point);
        format!("{{\"keys\":[{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"1\",\"x\":\"{point}\"}}]}}")
    };
    fs::write(&file, set(key.public_key().as_ref()))?;
    let keys = format!("oauth2.keys_file = \"{}\"", file.display());
    let (issuer, audience) = ("oauth2.issuer = \"https://id.example.net\"", "oauth2.audience = \"mail\"");
    culver.configure(&[&keys, issuer, audience, "oauth2.username_claim = \"sub\""])?;
    let token = |exp: u64, audience: &str, name: &str| {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"1"}"#);
        let claims = format!(
            "{{\"iss\":\"https://id.example.net\",\"aud\":\"{audience}\",\"exp\":{exp},\"sub\":\"{name}\",\"pad\":\"{}\"}}",
            // Tokens are longer than passwords.
            "x".repeat(4000)
        );
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signed = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
        format!("{message}.{signed}")
    };
    let far = 4_000_000_000;
    let good = token(far, "mail", &user(0));
    all(&tried(&culver, &user(0), &good)?, "a OK", "+OK")?;
    let failed = "NO [AUTHENTICATIONFAILED]";
    for (who, token) in [
        (user(1), good.clone()),
        (user(0), good[..good.len() - 4].to_owned()),
        (user(0), token(1_000_000_000, "mail", &user(0))),
        (user(0), token(far, "web", &user(0))),
        (user(0), "no.jwt".to_owned()),
    ] {
        all(&tried(&culver, &who, &token)?, failed, "-ERR [AUTH]")?;
    }
    // Other keys are read while it runs; a file that cannot be read changes nothing.
    let reload = |culver: &Culver| signal(culver.pid().unwrap_or_default(), "HUP");
    fs::write(&file, "{")?;
    reload(&culver)?;
    eventually("the log says so", Duration::from_secs(10), || {
        Ok(culver.log().contains("what verifies tokens stays as it was"))
    })?;
    all(&tried(&culver, &user(0), &good)?, "a OK", "+OK")?;
    fs::write(&file, set(&[9; 32]))?;
    reload(&culver)?;
    eventually("other keys", Duration::from_secs(10), || {
        Ok(tried(&culver, &user(0), &good)?.iter().all(|said| said.contains(failed) || said.contains("-ERR")))
    })?;
    culver.terminate()
}

fn openssl(dir: &Path, words: &str) -> Fallible {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(words.split(' '));
    run_ok(&mut command, b"", LIMIT)?;
    Ok(())
}

/// RFC 4422 appendix A.
fn external() -> Fallible {
    need("openssl")?;
    let mut culver = configured("external", &[])?;
    let dir = culver.data();
    openssl(&dir, "req -x509 -newkey rsa:2048 -nodes -subj /CN=CA -days 30 -keyout ca.key -out ca.crt")?;
    openssl(
        &dir,
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=CA -days 30 -keyout other.key -out other.crt",
    )?;
    for (name, ca, subject, address) in [
        ("certificate", "ca", "/CN=u003@example.test", "email:u000@example.test"),
        ("unknown", "ca", "/CN=u003@example.test", "email:nobody@example.test"),
        ("nameless", "ca", "/CN=u000@example.test", "DNS:localhost"),
        ("stranger", "other", "/CN=x", "email:u000@example.test"),
    ] {
        let key = format!("req -newkey rsa:2048 -nodes -subj {subject} -keyout {name}.key -out {name}.csr");
        openssl(&dir, &key)?;
        fs::write(dir.join("ext"), format!("subjectAltName={address}\nextendedKeyUsage=clientAuth\n"))?;
        let sign = format!("x509 -req -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial -days 30");
        openssl(&dir, &format!("{sign} -extfile ext -out {name}.crt"))?;
    }
    let ca = format!("listener.client_ca = \"{}\"", dir.join("ca.crt").display());
    // LMTP has no use for it: its listeners here take no such line.
    let lines = [ca.as_str()];
    culver.configure(&lines)?;
    let pair = |name: &str| {
        let file = |end: &str| dir.join(format!("{name}.{end}")).display().to_string();
        format!("\"{name}\":[\"{}\",\"{}\"]", file("crt"), file("key"))
    };
    let pairs: Vec<String> = ["certificate", "unknown", "nameless", "stranger"].map(pair).to_vec();
    session(&culver, &format!("\"mode\":\"external\",{}", pairs.join(",")))?;
    culver.terminate()
}

/// All at once, each with its line, its key and what to do.
fn mistakes() -> Fallible {
    own_process()?;
    let dir = crate::support::temp::TempDir::new("mistakes")?;
    let file = dir.path().join("culver.toml");
    fs::write(
        &file,
        "[storage]\nurl = \"file:///var/lib/culver\"\n[[listener]]\nservice = \"imap\"\naddress = \"127.0.0.1:143\"\n\
         client_name = \"cn\"\n[users]\nmechanisms = [\"plain\", \"cram-md5\", \"scram-sha-256-plus\", \"external\"]\n\
         scram_secret_file = \"/nonexistent\"\n[oauth2]\nintrospection_url = \"http://id.example.net/x\"\n\
         client_id = \"culver\"\ntimeout = \"2h\"\n[[users.static]]\nname = \"a@x\"\npassword = \"{PLAIN}x\"\n",
    )?;
    let mut command = Command::new(binary()?);
    command.arg("check-config").arg(&file);
    let done = run(&mut command, b"", LIMIT)?;
    ensure!(done.code != Some(0), "{}", done.output);
    for (line, what) in [
        (6, "listener.client_name"),
        (8, "users.mechanisms \"cram-md5\" is no mechanism"),
        (8, "users.mechanisms \"scram-sha-256-plus\" cannot be named"),
        (8, "users.mechanisms \"external\" needs a listener"),
        (9, "users.scram_secret_file /nonexistent cannot be read"),
        (11, "oauth2.introspection_url would send tokens without TLS"),
        (12, "oauth2.client_id stands without client_secret_file"),
        (13, "oauth2.timeout is not a duration"),
    ] {
        let told = format!("culver.toml:{line}: {what}");
        ensure!(done.output.contains(&told), "{told} not in\n{}", done.output);
    }
    let remedies = done.output.matches("remedy: ").count();
    ensure!(remedies >= 8, "{}", done.output);
    Ok(())
}
