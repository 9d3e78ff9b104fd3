//! Sockets in both worlds: hand-over of live connections, TLS, accept under cancellation, refusal.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use culver_shard::conn::{BACKLOG_MAX, Conn};
use culver_shard::net::{self, Accepted, Listener, Stream};
use culver_shard::sim::{OUTSIDE, Sim, SimConfig};
use culver_shard::tls::{self, CertificateFiles, Tickets, TlsError, rustls};
use culver_shard::{Config, Queue, Task, mesh, run, spawn, time};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

const WITHIN: Duration = Duration::from_secs(20);

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn on_shards<Fut: Future<Output = ()>>(shards: usize, f: impl Fn(usize) -> Fut + Send + Clone + 'static) {
    run::<_, _, io::Error>(Config { shards, pin: false, ..Config::default() }, move |shard| {
        let fut = f(shard);
        async move {
            fut.await;
            Ok(())
        }
    })
    .unwrap();
}

/// Certificates for names, each in files of its own.
struct Authority {
    dir: tempfile::TempDir,
    roots: Vec<CertificateDer<'static>>,
}

impl Authority {
    fn new(names: &[&str]) -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Vec::new();
        for name in names {
            let made = rcgen::generate_simple_self_signed(vec![(*name).to_owned()]).unwrap();
            std::fs::write(dir.path().join(format!("{name}.crt")), made.cert.pem()).unwrap();
            std::fs::write(dir.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
            roots.push(made.cert.der().clone());
        }
        Authority { dir, roots }
    }

    fn files(&self, names: &[&str]) -> Vec<CertificateFiles> {
        let file = |name: &str| self.dir.path().join(name);
        let one =
            |n: &&str| CertificateFiles { chain: file(&format!("{n}.crt")), key: file(&format!("{n}.key")) };
        names.iter().map(one).collect()
    }

    fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        tls::load_blocking(&self.files(names), &Tickets::new().unwrap()).unwrap()
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

async fn line(conn: &mut Conn) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = conn.rx().iter().position(|b| *b == b'\n') {
            let line = conn.rx()[..=end].to_vec();
            conn.consume(end + 1);
            return Some(line);
        }
        if conn.fill().await.unwrap() == 0 {
            return None;
        }
    }
}

async fn echo(mut conn: Conn) {
    while let Some(line) = line(&mut conn).await {
        let answer = format!("{} on {}", String::from_utf8(line).unwrap().trim_end(), culver_shard::shard());
        conn.write(answer.as_bytes()).unwrap();
        conn.write(b"\n").unwrap();
        conn.flush().await.unwrap();
    }
    conn.shutdown().await.unwrap();
}

async fn next(listener: &Listener) -> Stream {
    match listener.accept().await.unwrap() {
        Accepted::Conn(stream, _) | Accepted::Refuse(stream, ..) => stream,
    }
}

#[test]
fn a_thousand_live_connections_go_to_another_shard() {
    let authority = Authority::new(&["mail.example.test"]);
    let server = authority.server(&["mail.example.test"]);
    let clients = [
        None,
        Some(authority.client(&[&rustls::version::TLS12])),
        Some(authority.client(&[&rustls::version::TLS13])),
    ];
    on_shards(2, move |shard| {
        let (server, clients) = (server.clone(), clients.clone());
        async move {
            if shard != 0 {
                return culver_shard::stopped().await;
            }
            let (plain, secure) =
                (Listener::bind(any(), true).unwrap(), Listener::bind(any(), true).unwrap());
            let addrs = [plain.local_addr(), secure.local_addr()];
            let accept = |listener: Listener, config: Option<Arc<ServerConfig>>| {
                spawn(Queue::Interactive, "listener", async move {
                    loop {
                        let mut conn = Conn::new(next(&listener).await);
                        let config = config.clone();
                        let first = async move {
                            if let Some(config) = config {
                                conn.accept_tls(config, WITHIN).await.unwrap();
                            }
                            let login = line(&mut conn).await.unwrap();
                            conn.write(&login).unwrap();
                            let moved = conn.detach().await.unwrap();
                            mesh::call(1, move || async move {
                                spawn(Queue::Interactive, "session", echo(Conn::attach(moved))).detach()
                            })
                            .await
                            .unwrap();
                        };
                        spawn(Queue::Interactive, "login", first).detach();
                    }
                })
            };
            let _accepting = [accept(plain, None), accept(secure, Some(server))];

            let all = Rc::new(Cell::new(0));
            let mut tasks: Vec<Task<()>> = Vec::new();
            for n in 0..1000 {
                let client = clients[n % 3].clone();
                let addr = addrs[usize::from(client.is_some())];
                let all = all.clone();
                tasks.push(spawn(Queue::Interactive, "client", async move {
                    let mut conn = Conn::new(net::connect(addr).await.unwrap());
                    if let Some(client) = client {
                        conn.connect_tls(client, name("mail.example.test"), WITHIN).await.unwrap();
                        assert_eq!(conn.tls_info().unwrap().version, ["", "TLSv1_2", "TLSv1_3"][n % 3]);
                    }
                    // The second line and half of the third are read before the hand-over.
                    conn.write(format!("login {n}\npipelined {n}\nhal").as_bytes()).unwrap();
                    conn.flush().await.unwrap();
                    assert_eq!(line(&mut conn).await.unwrap(), format!("login {n}\n").as_bytes());
                    let pipelined = line(&mut conn).await.unwrap();
                    assert_eq!(pipelined, format!("pipelined {n} on 1\n").as_bytes());
                    all.set(all.get() + 1);
                    // All thousand are alive at once.
                    while all.get() < 1000 {
                        time::sleep(Duration::from_millis(20)).await;
                    }
                    conn.write(format!("f {n}\n").as_bytes()).unwrap();
                    conn.flush().await.unwrap();
                    assert_eq!(line(&mut conn).await.unwrap(), format!("half {n} on 1\n").as_bytes());
                    conn.shutdown().await.unwrap();
                    assert_eq!(line(&mut conn).await, None);
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            culver_shard::stop();
        }
    });
}

#[test]
fn no_connection_is_lost_when_accept_is_cancelled() {
    on_shards(1, |_| async {
        let listener = Listener::bind(any(), true).unwrap();
        let addr = listener.local_addr();
        let clients = spawn(Queue::Interactive, "clients", async move {
            for n in 0..500u16 {
                let mut stream = net::connect(addr).await.unwrap();
                stream.write_all(&n.to_be_bytes()).await.unwrap();
                let mut answer = [0];
                let read = time::deadline(WITHIN, stream.read(&mut answer)).await;
                assert_eq!(read.expect("accepted and answered").unwrap(), 1);
            }
        });
        let mut served = 0;
        while served < 500 {
            // Cancelled again and again, at any point.
            let within = Duration::from_micros(culver_shard::random::below(60));
            let Ok(accepted) = time::deadline(within, listener.accept()).await else { continue };
            let Accepted::Conn(mut stream, _) = accepted.unwrap() else { panic!("refused") };
            let mut octets = [0; 2];
            assert_eq!(stream.read(&mut octets).await.unwrap(), 2);
            stream.write_all(b"k").await.unwrap();
            served += 1;
        }
        clients.await.unwrap();
    });
}

#[test]
fn starttls_forgets_what_came_in_plain_and_fill_survives_cancelling() {
    let authority = Authority::new(&["a.example.test", "b.example.test"]);
    let server = authority.server(&["a.example.test", "b.example.test"]);
    let client = authority.client(BOTH);
    on_shards(1, move |_| {
        let (server, client) = (server.clone(), client.clone());
        async move {
            let listener = Listener::bind(any(), true).unwrap();
            let addr = listener.local_addr();
            let serving = spawn(Queue::Interactive, "server", async move {
                for (n, sni) in [(0, "b.example.test"), (1, "a.example.test"), (2, "a.example.test")] {
                    let mut conn = Conn::new(next(&listener).await);
                    assert_eq!(line(&mut conn).await.unwrap(), b"STARTTLS\n");
                    while conn.rx().is_empty() {
                        conn.fill().await.unwrap();
                    }
                    conn.write(b"OK\n").unwrap();
                    conn.start_tls(server.clone(), WITHIN).await.unwrap();
                    let info = conn.tls_info().unwrap();
                    assert_eq!((info.sni.as_deref(), info.resumed), (Some(sni), n == 2));
                    let mut octets = 0;
                    while octets < 3 << 20 {
                        // Dropped at any point; nothing is lost.
                        match time::deadline(Duration::from_micros(50), conn.fill()).await {
                            Ok(read) => assert!(read.unwrap() > 0),
                            Err(_) => continue,
                        }
                        assert!(conn.rx().iter().all(|b| *b == b'x'), "plain octets survived STARTTLS");
                        octets += conn.rx().len();
                        conn.consume(conn.rx().len());
                    }
                    assert_eq!(octets, 3 << 20);
                    conn.write_all(&vec![b'y'; 3 << 20]).await.unwrap();
                    conn.shutdown().await.unwrap();
                }
            });
            for sni in ["b.example.test", "a.example.test", "a.example.test"] {
                let mut conn = Conn::new(net::connect(addr).await.unwrap());
                conn.write(b"STARTTLS\nINJECTED\n").unwrap();
                conn.flush().await.unwrap();
                assert_eq!(line(&mut conn).await.unwrap(), b"OK\n");
                conn.connect_tls(client.clone(), name(sni), WITHIN).await.unwrap();
                conn.write_all(&vec![b'x'; 3 << 20]).await.unwrap();
                let mut octets = 0;
                while conn.fill().await.unwrap() > 0 {
                    octets += conn.rx().len();
                    conn.consume(conn.rx().len());
                }
                assert_eq!(octets, 3 << 20);
            }
            serving.await.unwrap();
        }
    });
}

/// A client on rustls' own buffered connection, which tells the octets of its records.
struct Peer {
    stream: Stream,
    tls: rustls::ClientConnection,
}

impl Peer {
    async fn connect(addr: SocketAddr, config: Arc<ClientConfig>) -> Peer {
        let tls = rustls::ClientConnection::new(config, name("a.example.test")).unwrap();
        let mut peer = Peer { stream: net::connect(addr).await.unwrap(), tls };
        while peer.tls.is_handshaking() {
            let octets = peer.outgoing();
            peer.stream.write_all(&octets).await.unwrap();
            if peer.tls.is_handshaking() {
                assert!(peer.read().await > 0);
            }
        }
        let octets = peer.outgoing();
        peer.stream.write_all(&octets).await.unwrap();
        peer
    }

    fn outgoing(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut octets).unwrap();
        }
        octets
    }

    fn records(&mut self, text: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(text).unwrap();
        self.outgoing()
    }

    /// Reads once; 0 at the end.
    async fn read(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let read = self.stream.read(&mut buffer).await.unwrap();
        let mut octets = &buffer[..read];
        while !octets.is_empty() {
            self.tls.read_tls(&mut octets).unwrap();
            self.tls.process_new_packets().unwrap();
        }
        read
    }

    async fn says(&mut self, text: &[u8]) {
        let octets = self.records(text);
        self.stream.write_all(&octets).await.unwrap();
    }

    async fn hears(&mut self, octets: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while heard.len() < octets {
            match self.tls.reader().read(&mut buffer) {
                Ok(read) => heard.extend_from_slice(&buffer[..read]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => assert!(self.read().await > 0),
                Err(e) => panic!("{e}"),
            }
        }
        heard
    }
}

/// Polls once: what is there is read, and where nothing is the connection waits.
async fn look(conn: &mut Conn) -> bool {
    let mut fill = std::pin::pin!(conn.fill());
    std::future::poll_fn(|cx| std::task::Poll::Ready(fill.as_mut().poll(cx).is_ready())).await
}

#[test]
fn half_a_record_goes_to_another_shard_and_an_idle_connection_holds_no_buffer() {
    let authority = Authority::new(&["a.example.test"]);
    let server = authority.server(&["a.example.test"]);
    let clients =
        [authority.client(&[&rustls::version::TLS12]), authority.client(&[&rustls::version::TLS13])];
    on_shards(2, move |shard| {
        let (server, clients) = (server.clone(), clients.clone());
        async move {
            if shard != 0 {
                return culver_shard::stopped().await;
            }
            let listener = Listener::bind(any(), true).unwrap();
            let addr = listener.local_addr();
            for client in clients {
                for cut in [1, 4, 5, 6, 20, 3000, 16_000] {
                    let server = server.clone();
                    let connecting = spawn(Queue::Interactive, "client", Peer::connect(addr, client.clone()));
                    let mut conn = Conn::new(next(&listener).await);
                    conn.accept_tls(server, WITHIN).await.unwrap();
                    let mut peer = connecting.await.unwrap();
                    let text = [vec![b'x'; 16_000], b"\n".to_vec()].concat();
                    let octets = peer.records(&text);
                    peer.stream.write_all(&octets[..cut]).await.unwrap();
                    // The octets are there at once on loopback, or are read behind the hand-over: both are right.
                    for _ in 0..10 {
                        assert!(!look(&mut conn).await);
                    }
                    assert!(conn.buffers() <= cut + 4096, "{} held of {cut}", conn.buffers());
                    let moved = conn.detach().await.unwrap();
                    mesh::call(1, move || async move {
                        spawn(Queue::Interactive, "session", async move {
                            let mut conn = Conn::attach(moved);
                            let said = line(&mut conn).await.unwrap();
                            conn.write(&said).unwrap();
                            conn.flush().await.unwrap();
                            assert!(!look(&mut conn).await);
                            assert_eq!(conn.buffers(), 0, "held by an idle connection");
                            echo(conn).await;
                        })
                        .detach();
                    })
                    .await
                    .unwrap();
                    peer.stream.write_all(&octets[cut..]).await.unwrap();
                    assert_eq!(peer.hears(text.len()).await, text);
                    peer.says(b"again\n").await;
                    assert_eq!(peer.hears(11).await, b"again on 1\n");
                }
            }
            culver_shard::stop();
        }
    });
}

#[test]
fn much_goes_both_ways_through_small_socket_buffers() {
    const OCTETS: usize = 2 << 20;
    let text = || (0..OCTETS).map(|n| (n % 251) as u8);
    let authority = Authority::new(&["a.example.test"]);
    let server = authority.server(&["a.example.test"]);
    let clients =
        [authority.client(&[&rustls::version::TLS12]), authority.client(&[&rustls::version::TLS13])];
    on_shards(1, move |_| {
        let (server, clients) = (server.clone(), clients.clone());
        async move {
            let listener = Listener::bind(any(), true).unwrap();
            let addr = listener.local_addr();
            for client in clients {
                let peer = std::thread::spawn(move || {
                    let socket =
                        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                    socket.set_recv_buffer_size(4096).unwrap();
                    socket.set_send_buffer_size(4096).unwrap();
                    socket.connect(&addr.into()).unwrap();
                    let tls = rustls::ClientConnection::new(client, name("a.example.test")).unwrap();
                    let mut stream = rustls::StreamOwned::new(tls, std::net::TcpStream::from(socket));
                    for (n, piece) in text().collect::<Vec<_>>().chunks(30_000).enumerate() {
                        if n == 20 && stream.conn.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
                        {
                            stream.conn.refresh_traffic_keys().unwrap();
                        }
                        stream.write_all(piece).unwrap();
                    }
                    let mut heard = vec![0; OCTETS];
                    stream.read_exact(&mut heard).unwrap();
                    assert!(heard.into_iter().eq(text()));
                    // close_notify, and no octet more.
                    assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
                });
                let mut conn = Conn::new(next(&listener).await);
                conn.accept_tls(server.clone(), WITHIN).await.unwrap();
                let mut heard = Vec::new();
                while heard.len() < OCTETS {
                    // Dropped at any point; nothing is lost or comes twice.
                    match time::deadline(Duration::from_micros(80), conn.fill()).await {
                        Ok(read) => assert!(read.unwrap() > 0),
                        // Where a look took longer than that, nobody else would ever have a turn.
                        Err(_) => culver_shard::yield_now().await,
                    }
                    heard.extend_from_slice(conn.rx());
                    conn.consume(conn.rx().len());
                }
                assert!(heard.iter().copied().eq(text()));
                let (first, second) = heard.split_at(OCTETS / 2);
                for piece in first.chunks(300_000) {
                    conn.write(piece).unwrap();
                    while conn.backlog() > 0 {
                        match time::deadline(Duration::from_micros(80), conn.flush()).await {
                            Ok(sent) => sent.unwrap(),
                            Err(_) => culver_shard::yield_now().await,
                        }
                    }
                }
                conn.write_all(second).await.unwrap();
                conn.shutdown().await.unwrap();
                // The thread ends by itself; where it failed, the end comes without it.
                peer.join().unwrap();
            }
        }
    });
}

#[test]
fn a_message_that_never_ends_is_cut_and_an_alert_comes_before_the_end() {
    let authority = Authority::new(&["a.example.test"]);
    let server = authority.server(&["a.example.test"]);
    on_shards(1, move |_| {
        let server = server.clone();
        async move {
            let listener = Listener::bind(any(), true).unwrap();
            let addr = listener.local_addr();
            // A ClientHello said to be of 60,000 octets, in records of one.
            let endless = spawn(Queue::Interactive, "client", async move {
                let mut stream = net::connect(addr).await.unwrap();
                let mut octets = vec![22, 3, 1, 0, 4, 1, 0, 0xea, 0x60];
                for _ in 0..30_000 {
                    octets.extend_from_slice(&[22, 3, 1, 0, 1, 0]);
                }
                // It may be cut on the way.
                let _ = stream.write_all(&octets).await;
                stream
            });
            let mut conn = Conn::new(next(&listener).await);
            let cut = conn.accept_tls(server.clone(), WITHIN).await.unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::InvalidData, "{cut}");
            assert!(conn.buffers() < 200 << 10, "{}", conn.buffers());
            drop(conn);
            endless.await.unwrap();

            // A record that is too long: the alert is sent before the error is told.
            let mut stream = net::connect(addr).await.unwrap();
            stream.write_all(&[22, 3, 1, 0xff, 0xff, 1, 0]).await.unwrap();
            let mut conn = Conn::new(next(&listener).await);
            let broken = conn.accept_tls(server, WITHIN).await.unwrap_err();
            assert_eq!(broken.kind(), io::ErrorKind::InvalidData);
            let mut alert = [0; 7];
            assert_eq!(stream.read(&mut alert).await.unwrap(), 7);
            assert_eq!((alert[0], alert[5]), (21, 2));
            drop(conn);
        }
    });
}

#[test]
fn handshake_has_a_deadline_and_garbage_is_an_error() {
    let authority = Authority::new(&["a.example.test"]);
    let server = authority.server(&["a.example.test"]);
    on_shards(1, move |_| {
        let server = server.clone();
        async move {
            let listener = Listener::bind(any(), true).unwrap();
            let mut silent = net::connect(listener.local_addr()).await.unwrap();
            let mut conn = Conn::new(next(&listener).await);
            let late = conn.accept_tls(server.clone(), Duration::from_millis(50)).await.unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::TimedOut);
            silent.write_all(b"x").await.unwrap();

            let mut rude = net::connect(listener.local_addr()).await.unwrap();
            rude.write_all(b"EHLO there, this is no TLS at all\r\n").await.unwrap();
            let mut conn = Conn::new(next(&listener).await);
            let broken = conn.accept_tls(server, WITHIN).await.unwrap_err();
            assert_eq!(broken.kind(), io::ErrorKind::InvalidData);
        }
    });
}

#[test]
fn backlog_is_bounded_and_ends_are_seen() {
    on_shards(1, |_| async {
        let listener = Listener::bind(any(), true).unwrap();
        let mut client = net::connect(listener.local_addr()).await.unwrap();
        let mut conn = Conn::new(next(&listener).await);
        conn.write(&vec![0; BACKLOG_MAX]).unwrap();
        assert!(conn.write(&[0]).is_err());
        // A peer that does not read does not block a deadline.
        let mut conn2 = Conn::new(net::connect(listener.local_addr()).await.unwrap());
        let _silent = next(&listener).await;
        let stuck = async { while conn2.write_all(&vec![0; 1 << 20]).await.is_ok() {} };
        assert!(time::deadline(Duration::from_millis(200), stuck).await.is_err());
        // Half closed: the other direction goes on.
        client.write_all(b"last\n").await.unwrap();
        client.shutdown_write().unwrap();
        assert_eq!(line(&mut conn).await.unwrap(), b"last\n");
        assert_eq!(conn.fill().await.unwrap(), 0);
        assert_eq!(conn.fill().await.unwrap(), 0);
        let reading = spawn(Queue::Interactive, "reader", async move {
            let (mut octets, mut buffer) = (0, vec![0; 65536]);
            loop {
                match client.read(&mut buffer).await.unwrap() {
                    0 => return octets,
                    n => octets += n,
                }
            }
        });
        conn.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap(), BACKLOG_MAX);
    });
}

/// In a child process, whose limit of descriptors is lowered.
#[test]
fn connections_are_refused_before_descriptors_run_out() {
    if std::env::var_os("CULVER_TEST_DESCRIPTORS").is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "connections_are_refused_before_descriptors_run_out", "--nocapture"])
            .env("CULVER_TEST_DESCRIPTORS", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && text.contains("refused politely"), "{text}");
        return;
    }
    let limit = libc::rlimit { rlim_cur: 200, rlim_max: 200 };
    // SAFETY: a plain system call of this test's own child process.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    on_shards(1, |_| async {
        let listener = Listener::bind(any(), true).unwrap();
        let (mut held, mut refused) = (Vec::new(), 0);
        for _ in 0..100 {
            let Ok(mut client) = net::connect(listener.local_addr()).await else { break };
            match listener.accept().await.unwrap() {
                Accepted::Conn(stream, _) => held.push((client, stream)),
                Accepted::Refuse(mut stream, ..) => {
                    stream.write_all(b"* BYE\r\n").await.unwrap();
                    drop(stream);
                    let mut text = [0; 7];
                    assert_eq!(client.read(&mut text).await.unwrap(), 7);
                    refused += 1;
                    // The reserve is for files.
                    let files: Vec<_> = (0..20).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
                    drop(files);
                }
            }
        }
        assert!(held.len() > 40 && refused > 10, "{} {refused}", held.len());
        drop(held);
        let _client = net::connect(listener.local_addr()).await.unwrap();
        assert!(matches!(listener.accept().await.unwrap(), Accepted::Conn(..)));
        println!("refused politely");
    });
}

#[test]
fn tls_errors_name_the_file() {
    let authority = Authority::new(&["a.example.test", "b.example.test"]);
    let dir = authority.dir.path();
    let tickets = Tickets::new().unwrap();
    let load = |chain: &Path, key: &Path| {
        tls::load_blocking(&[CertificateFiles { chain: chain.into(), key: key.into() }], &tickets)
            .unwrap_err()
    };
    let (crt, key) = (dir.join("a.example.test.crt"), dir.join("a.example.test.key"));
    std::fs::write(dir.join("empty"), "nothing").unwrap();
    std::fs::write(dir.join("broken"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let cases = [
        load(&dir.join("absent"), &key),
        load(&dir.join("empty"), &key),
        load(&crt, &dir.join("empty")),
        load(&dir.join("broken"), &key),
        load(&crt, &dir.join("b.example.test.key")),
    ];
    assert!(matches!(
        cases,
        [
            TlsError::Read { .. },
            TlsError::NoCertificate { .. },
            TlsError::NoKey { .. },
            TlsError::Unusable { .. },
            TlsError::Mismatch { .. }
        ]
    ));
    for (error, file) in cases.iter().zip(["absent", "empty", "empty", "broken", "b.example.test.key"]) {
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn simulated_network_delays_partitions_and_resets() {
    for seed in 0..50 {
        let sim = Sim::new(seed, SimConfig::default());
        let server = sim.node("server");
        let addr: SocketAddr = "10.0.0.1:143".parse().unwrap();
        let serve = move |_| async move {
            let listener = Listener::bind(addr, true).unwrap();
            loop {
                let conn = Conn::new(next(&listener).await);
                let moved = conn.detach().await.unwrap();
                let other = culver_shard::random::below(2) as usize;
                mesh::call(other, move || async move {
                    spawn(Queue::Interactive, "session", async move {
                        let mut conn = Conn::attach(moved);
                        while let Some(line) = line_or_end(&mut conn).await {
                            if conn.write(&line).is_err() || conn.flush().await.is_err() {
                                return;
                            }
                        }
                    })
                    .detach();
                })
                .await
                .unwrap();
            }
        };
        sim.start(server, 2, serve);
        let s = sim.clone();
        sim.run(async move {
            time::sleep(Duration::from_millis(5)).await;
            let mut conn = Conn::new(net::connect(addr).await.unwrap());
            let big = [vec![b'z'; 200_000], b"\n".to_vec()].concat();
            let writer = async {
                conn.write_all(&big).await.unwrap();
                line(&mut conn).await.unwrap()
            };
            assert_eq!(writer.await, big);

            s.partition(OUTSIDE, server);
            conn.write(b"held\n").unwrap();
            conn.flush().await.unwrap();
            assert!(time::deadline(Duration::from_secs(9), conn.fill()).await.is_err());
            s.heal(OUTSIDE, server);
            assert_eq!(line(&mut conn).await.unwrap(), b"held\n");

            s.reset(OUTSIDE, server);
            assert_eq!(conn.fill().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

            let mut conn = Conn::new(net::connect(addr).await.unwrap());
            s.crash(server);
            assert!(conn.fill().await.is_err());
            assert_eq!(net::connect(addr).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            s.start(server, 2, serve);
            time::sleep(Duration::from_millis(5)).await;
            let mut conn = Conn::new(net::connect(addr).await.unwrap());
            conn.write_all(b"again\n").await.unwrap();
            assert_eq!(line(&mut conn).await.unwrap(), b"again\n");
        });
    }
}

async fn line_or_end(conn: &mut Conn) -> Option<Vec<u8>> {
    while !conn.rx().contains(&b'\n') {
        if conn.fill().await.ok()? == 0 {
            return None;
        }
    }
    line(conn).await
}
