//! Every way to a server: a unix socket, a proxy's tunnel, a certificate authority of one's own, a client certificate, names
//! that move and addresses that are silent. What fails on the way is proof that nothing was sent, and says what it was.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as told")]

mod scripted;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use relatch_net::upstream::dial::{Broken, ConnRule, Dialer, Nearness, Spans, Target, Tls, Wrote};
use relatch_net::upstream::proxy::{Proxy, ProxyAddress, Variables};
use relatch_net::upstream::route::{Names, Route};
use relatch_net::upstream::trust::{Files, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scripted::{Peer, Server};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};

fn post(body: &str) -> Request<Full<Bytes>> {
    Request::builder().method(Method::POST).uri("/mcp").body(Full::new(body.to_owned().into())).unwrap()
}

async fn call(dialer: &Dialer, body: &str, rule: ConnRule) -> Result<String, Broken> {
    let mut reply = dialer.send(post(body), rule).await?;
    let text = reply.collect(1024 * 1024).await?;
    Ok(String::from_utf8(text.to_vec()).unwrap())
}

/// The words of a way that leads nowhere; nothing was sent.
async fn nowhere(dialer: &Dialer) -> String {
    let broken = dialer.send(post("never"), ConnRule::Any).await.unwrap_err();
    assert_eq!(broken.wrote, Wrote::Nothing, "{broken}");
    assert_eq!(dialer.open_sockets(), 0);
    broken.cause.to_string()
}

fn dialer(target: &str, route: Route) -> Dialer {
    Dialer::new(Target::parse(target).unwrap().by(route), Tls::platform())
}

async fn vacant() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

// Unix sockets

/// An echo server at a unix socket; it ends with the test.
fn at_socket(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let inner = Server::start(Peer::echo).await;
                let mut plain = TcpStream::connect(inner.at).await.unwrap();
                let _ = copy_bidirectional(&mut socket, &mut plain).await;
            });
        }
    });
}

#[tokio::test]
async fn a_unix_socket_is_a_server_like_any_other_and_near() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mcp.sock");
    let dialer = dialer(&format!("unix:{}", path.display()), Route::default());
    assert_eq!(dialer.target().nearness(), Nearness::Loopback);
    let words = nowhere(&dialer).await;
    assert!(words.starts_with("no socket is there (") && words.contains("mcp.sock, ENOENT"), "{words}");

    // Given a server that ended without a word
    drop(UnixListener::bind(&path).unwrap());
    let words = nowhere(&dialer).await;
    assert!(words.starts_with("connection refused (ECONNREFUSED /"), "{words}");

    fs::remove_file(&path).unwrap();
    at_socket(&path);
    for n in 0..3 {
        assert_eq!(call(&dialer, &n.to_string(), ConnRule::Young).await.unwrap(), n.to_string());
    }
    assert_eq!((dialer.counts().opened, dialer.counts().reused), (1, 2));
}

// Proxies

/// What a proxy was asked, line by line.
type Asked = Arc<Mutex<Vec<String>>>;

/// A proxy that answers `CONNECT` with `says`, and with 200 connects to `to`.
async fn proxy(says: &'static str, to: SocketAddr) -> (Server, Asked) {
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    let server = Server::start(move |mut peer: Peer| {
        let log = Arc::clone(&log);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(peer.socket.read_u8().await?);
            }
            log.lock().unwrap().extend(String::from_utf8(head).unwrap().lines().map(str::to_owned));
            peer.socket.write_all(says.as_bytes()).await?;
            if says.contains(" 200 ") {
                let mut there = TcpStream::connect(to).await?;
                copy_bidirectional(&mut peer.socket, &mut there).await?;
            }
            Ok(())
        }
    })
    .await;
    (server, asked)
}

fn by_proxy(address: &str) -> Route {
    Route { proxy: Proxy::Given(ProxyAddress::parse(address).unwrap()), ..Route::default() }
}

const GRANTED: &str = "HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n";

#[tokio::test]
async fn a_plain_server_behind_a_proxy_is_reached_by_a_tunnel() {
    let server = Server::start(Peer::echo).await;
    let (proxy, asked) = proxy(GRANTED, server.at).await;
    let dialer =
        dialer("http://mcp.example.test:8000/mcp", by_proxy(&format!("http://me:s3cret@{}", proxy.at)));
    for body in ["a", "b"] {
        assert_eq!(call(&dialer, body, ConnRule::Any).await.unwrap(), body);
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            "CONNECT mcp.example.test:8000 HTTP/1.1",
            "Host: mcp.example.test:8000",
            "Proxy-Authorization: Basic bWU6czNjcmV0",
            ""
        ]
    );
    // The proxy's credentials are the proxy's alone, and so is its connection.
    assert_eq!((server.seen.accepted(), proxy.seen.accepted()), (1, 1));
}

#[tokio::test]
async fn a_proxy_that_gives_no_way_is_named_with_the_server_and_nothing_was_sent() {
    let server = Server::start(Peer::echo).await;
    for (says, words) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "refuses the credentials in its address (407)",
        ),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "does not allow connections to"),
        ("HTTP/1.0 502 Bad Gateway\r\n\r\n", "(502 Bad Gateway)"),
        ("HTTP/1.1 504\r\n\r\n", "reaches no"),
        ("HTTP/1.1 400 Bad\u{1b}[31m Request\r\n\r\n", "(400 Bad[31m Request)"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "is no HTTP proxy"),
        ("", "hung up when asked for"),
    ] {
        let (proxy, _) = proxy(says, server.at).await;
        let address = format!("http://me:s3cret@{}", proxy.at);
        let dialer = dialer("https://mcp.example.test/mcp", by_proxy(&address));
        let said = nowhere(&dialer).await;
        let shown = format!("`http://{}`", proxy.at);
        assert!(said.contains(words) && said.contains(&shown), "{said}");
        assert!(said.contains("`mcp.example.test:443`") && !said.contains("s3cret"), "{said}");
    }
    let (wants, _) = proxy("HTTP/1.1 407 Who\r\n\r\n", server.at).await;
    let said = nowhere(&dialer("https://a.test/mcp", by_proxy(&wants.at.to_string()))).await;
    assert!(said.contains("wants credentials (407)") && said.contains("USER:PASSWORD"), "{said}");

    let nobody = vacant().await;
    let said = nowhere(&dialer("https://a.test/mcp", by_proxy(&nobody.to_string()))).await;
    assert_eq!(
        said,
        format!(
            "the proxy `http://{nobody}` gives no way to `a.test:443`: connection refused (ECONNREFUSED {nobody})"
        )
    );
    assert_eq!(server.seen.accepted(), 0);
}

#[tokio::test]
async fn a_proxy_that_says_nothing_ends_in_a_named_time_out() {
    let silent = Server::start(|mut peer: Peer| async move {
        peer.closed().await;
        Ok(())
    })
    .await;
    let spans = Spans { connect: Duration::from_millis(100), ..Spans::default() };
    let target = Target::parse("https://a.test/mcp").unwrap().by(by_proxy(&silent.at.to_string()));
    let said = nowhere(&Dialer::with_spans(target, Tls::platform(), spans)).await;
    assert!(said.ends_with("gives no way to `a.test:443`: no connection within 200ms"), "{said}");
}

#[tokio::test]
async fn loopback_and_exceptions_go_straight_past_a_proxy_that_would_refuse() {
    let server = Server::start(Peer::echo).await;
    let (proxy, asked) = proxy("HTTP/1.1 403 Forbidden\r\n\r\n", server.at).await;
    let address = format!("http://{}", proxy.at);
    let variables = Variables::read(|name| match name {
        "ALL_PROXY" => Some(address.clone()),
        "NO_PROXY" => Some(".internal.test".to_owned()),
        _ => None,
    });
    let straight = Names::Asked(Arc::new(|_| Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) })));
    let route = Route { proxy: Proxy::Variables(Arc::new(variables)), names: straight, ..Route::default() };
    let port = server.at.port();
    for host in ["127.0.0.1", "localhost", "mcp.internal.test"] {
        let dialer = dialer(&format!("http://{host}:{port}/mcp"), route.clone());
        assert_eq!(call(&dialer, host, ConnRule::Any).await.unwrap(), host);
    }
    assert!(asked.lock().unwrap().is_empty());
    let said = nowhere(&dialer(&format!("http://mcp.other.test:{port}/mcp"), route)).await;
    assert!(said.contains("does not allow connections"), "{said}");
}

#[tokio::test]
async fn a_way_that_is_changed_counts_from_the_next_connection_on() {
    let server = Server::start(Peer::echo).await;
    let (refuses, _) = proxy("HTTP/1.1 403 Forbidden\r\n\r\n", server.at).await;
    let (grants, _) = proxy(GRANTED, server.at).await;
    let dialer = dialer("http://a.test/mcp", by_proxy(&grants.at.to_string()));
    assert_eq!(call(&dialer, "a", ConnRule::Any).await.unwrap(), "a");
    dialer.reroute(by_proxy(&refuses.at.to_string()));
    assert!(nowhere(&dialer).await.contains("403"), "an idle connection by the old way was used");
}

// TLS by files

/// A certificate authority and what it has signed, as files.
struct Authority {
    folder: TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: PathBuf,
}

/// A certificate and its key.
type Pair = (PathBuf, PathBuf);

impl Authority {
    fn new() -> Authority {
        let folder = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        // By a name of its own: what another authority of the same name signs is no unknown issuer's, but forged.
        let name = folder.path().display().to_string();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = folder.path().join("ca.pem");
        fs::write(&pem, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { folder, issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// A certificate for this name, valid until the beginning of this year.
    fn signs(&self, name: &str, until: i32) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let files = (
            self.folder.path().join(format!("{name}-{until}.pem")),
            self.folder.path().join(format!("{name}-{until}.key")),
        );
        fs::write(&files.0, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    fn ca(&self) -> Files {
        Files { ca: Some(self.pem.clone()), identity: None }
    }

    fn with(&self, (cert, key): &Pair) -> Files {
        Files { identity: Some(Identity { cert: cert.clone(), key: key.clone() }), ..self.ca() }
    }
}

fn by(files: Files) -> Route {
    Route { tls: Some(Tls::with_files(files)), ..Route::default() }
}

/// An echo server with this certificate; one that wants to know its clients by this authority.
async fn secured(
    (cert, key): &Pair,
    knows: Option<&Authority>,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
) -> Server {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&ring))
        .with_protocol_versions(versions)
        .unwrap();
    let config = match knows {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&authority.pem).unwrap()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
    Server::start(move |peer: Peer| {
        let acceptor = acceptor.clone();
        async move {
            let mut secure = acceptor.accept(peer.socket).await?;
            let inner = Server::start(Peer::echo).await;
            let mut plain = TcpStream::connect(inner.at).await?;
            copy_bidirectional(&mut secure, &mut plain).await?;
            Ok(())
        }
    })
    .await
}

const BOTH: &[&rustls::SupportedProtocolVersion] = rustls::DEFAULT_VERSIONS;
const TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn https(server: &Server, host: &str, route: Route) -> Dialer {
    dialer(&format!("https://{host}:{}/mcp", server.at.port()), route)
}

#[tokio::test]
async fn a_server_is_trusted_by_the_word_of_the_configured_authority_alone() {
    let (ours, other) = (Authority::new(), Authority::new());
    let server = secured(&ours.signs("localhost", 2400), None, BOTH).await;
    assert_eq!(call(&https(&server, "localhost", by(ours.ca())), "a", ConnRule::Any).await.unwrap(), "a");
    let said = nowhere(&https(&server, "localhost", by(other.ca()))).await;
    assert!(said.contains("vouched for by nobody in `") && said.contains("ca.pem`"), "{said}");
    let said = nowhere(&https(&server, "localhost", Route::default())).await;
    assert!(said.contains("TLS refused: "), "{said}");
    let said = nowhere(&https(&server, "127.0.0.1", by(ours.ca()))).await;
    assert_eq!(said, "TLS refused: the server's certificate is for `localhost`, and not for `127.0.0.1`");

    let expired = secured(&ours.signs("localhost", 2020), None, BOTH).await;
    let said = nowhere(&https(&expired, "localhost", by(ours.ca()))).await;
    assert_eq!(said, "TLS refused: the server's certificate has expired, on 2020-01-01T00:00:00Z");

    let missing = Files { ca: Some("/nowhere/ca.pem".into()), identity: None };
    let said = nowhere(&https(&server, "localhost", by(missing))).await;
    assert_eq!(said, "TLS refused: `/nowhere/ca.pem` can't be read: it is not there");
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_gets_it_or_says_no_before_anything_is_sent() {
    let (ours, other) = (Authority::new(), Authority::new());
    let cert = ours.signs("localhost", 2400);
    for versions in [TLS12, TLS13] {
        let server = secured(&cert, Some(&ours), versions).await;
        let known = https(&server, "localhost", by(ours.with(&ours.signs("relatch", 2400))));
        assert_eq!(call(&known, "a", ConnRule::Any).await.unwrap(), "a");
        for turn in 0..10 {
            let without = https(&server, "localhost", by(ours.ca()));
            let said = nowhere(&without).await;
            assert!(said.contains("wants a client certificate, and none is configured"), "{turn}: {said}");
        }
        for (foreign, alert) in
            [(other.signs("relatch", 2400), "UnknownCA"), (ours.signs("relatch", 2020), "CertificateExpired")]
        {
            let said = nowhere(&https(&server, "localhost", by(ours.with(&foreign)))).await;
            assert!(said.contains("refuses the client certificate in `") && said.contains(alert), "{said}");
        }
        // And again, when it is known that it will be let in.
        assert_eq!(call(&known, "b", ConnRule::Fresh).await.unwrap(), "b");
    }
}

#[tokio::test]
async fn certificates_that_are_renewed_are_used_from_the_next_connection_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = secured(&new.signs("localhost", 2400), None, BOTH).await;
    let dialer = https(&server, "localhost", by(old.ca()));
    assert!(nowhere(&dialer).await.contains("vouched for by nobody"));
    fs::copy(&new.pem, &old.pem).unwrap();
    assert_eq!(call(&dialer, "a", ConnRule::Any).await.unwrap(), "a");
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_to_the_name_in_the_address_and_a_proxy_may_speak_tls_itself() {
    let ours = Authority::new();
    let server = secured(&ours.signs("mcp.example.test", 2400), None, BOTH).await;
    let (proxy, asked) = proxy(GRANTED, server.at).await;
    let route = Route { tls: Some(Tls::with_files(ours.ca())), ..by_proxy(&proxy.at.to_string()) };
    let dialer = dialer("https://mcp.example.test/mcp", route);
    let body = "x".repeat(100_000);
    assert_eq!(call(&dialer, &body, ConnRule::Any).await.unwrap(), body);
    assert_eq!(asked.lock().unwrap()[0], "CONNECT mcp.example.test:443 HTTP/1.1");

    // Trusted by the platform's word, which knows nothing of this one's.
    let secured = secured(&ours.signs("localhost", 2400), None, BOTH).await;
    let said = nowhere(&self::dialer(
        "https://mcp.example.test/mcp",
        by_proxy(&format!("https://localhost:{}", secured.at.port())),
    ))
    .await;
    assert!(said.contains("gives no way to `mcp.example.test:443`: TLS refused"), "{said}");
}

// Names and addresses

/// A name whose addresses are what the test says.
fn names() -> (Names, Arc<Mutex<Vec<IpAddr>>>) {
    let now: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let asked = Arc::clone(&now);
    let names = Names::Asked(Arc::new(move |_| {
        let found = asked.lock().unwrap().clone();
        Box::pin(async move { Ok(found) })
    }));
    (names, now)
}

/// Two echo servers at one port of two addresses.
async fn two() -> (Server, Server, u16) {
    for _ in 0..50 {
        let one = Server::start(Peer::echo).await;
        let at = SocketAddr::from(([127, 0, 0, 2], one.at.port()));
        if let Ok(listener) = TcpListener::bind(at).await {
            let port = one.at.port();
            return (one, Server::on(listener, Peer::echo), port);
        }
    }
    panic!("no port is free at both addresses");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_name_that_moves_is_followed_and_nothing_is_left_at_its_old_address() {
    let (one, other, port) = two().await;
    let (names, now) = names();
    *now.lock().unwrap() = vec![ip("127.0.0.1")];
    let dialer = dialer(&format!("http://mcp.example.test:{port}/mcp"), Route { names, ..Route::default() });
    // Two connections at the old address
    let (a, b) = tokio::join!(call(&dialer, "a", ConnRule::Any), call(&dialer, "b", ConnRule::Any));
    assert_eq!((a.unwrap().as_str(), b.unwrap().as_str()), ("a", "b"));
    assert_eq!((one.seen.accepted(), dialer.open_sockets()), (2, 2));

    *now.lock().unwrap() = vec![ip("127.0.0.2")];
    assert_eq!(call(&dialer, "c", ConnRule::Fresh).await.unwrap(), "c");
    assert_eq!((one.seen.accepted(), other.seen.accepted()), (2, 1));
    // Only what was opened at the new address is used from now on.
    for body in ["d", "e"] {
        assert_eq!(call(&dialer, body, ConnRule::Any).await.unwrap(), body);
    }
    assert_eq!((one.seen.accepted(), other.seen.accepted(), dialer.open_sockets()), (2, 1, 1));
}

#[tokio::test]
async fn every_address_is_tried_and_a_silent_one_costs_a_moment() {
    let (one, _other, port) = two().await;
    let (names, now) = names();
    let url = format!("http://mcp.example.test:{port}/mcp");
    // One that refuses, of either family, before the one that serves
    *now.lock().unwrap() = vec![ip("::1"), ip("127.0.0.9"), ip("127.0.0.1")];
    let route = Route { names, ..Route::default() };
    assert_eq!(call(&dialer(&url, route.clone()), "a", ConnRule::Any).await.unwrap(), "a");

    // One that is silent: its queue is full, and the system drops whatever else comes.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 3], port)).into()).unwrap();
    silent.listen(0).unwrap();
    let mut queued = Vec::new();
    for _ in 0..4 {
        let try_once = TcpStream::connect((ip("127.0.0.3"), port));
        match tokio::time::timeout(Duration::from_millis(200), try_once).await {
            Ok(socket) => queued.push(socket.unwrap()),
            Err(_) => break,
        }
    }
    *now.lock().unwrap() = vec![ip("127.0.0.3"), ip("127.0.0.1")];
    let spans = Spans { connect: Duration::from_secs(60), ..Spans::default() };
    let target = Target::parse(&url).unwrap().by(route.clone());
    let patient = Dialer::with_spans(target, Tls::platform(), spans);
    // Without a second address beside the first, this would take the half of a minute.
    let done = tokio::time::timeout(Duration::from_secs(20), call(&patient, "b", ConnRule::Any)).await;
    assert_eq!(done.unwrap().unwrap(), "b");
    assert_eq!(one.seen.accepted(), 2);

    *now.lock().unwrap() = vec![ip("127.0.0.3")];
    let spans = Spans { connect: Duration::from_millis(300), ..Spans::default() };
    let target = Target::parse(&url).unwrap().by(route);
    let said = nowhere(&Dialer::with_spans(target, Tls::platform(), spans)).await;
    assert_eq!(said, format!("no connection within 300ms (127.0.0.3:{port})"));
}

#[tokio::test]
async fn an_address_of_the_newer_family_is_written_with_brackets() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        eprintln!("this machine has no IPv6: nothing to see");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let _server = Server::on(listener, Peer::echo);
    let dialer = dialer(&format!("http://[::1]:{port}/mcp"), Route::default());
    assert_eq!(dialer.target().host_header(), &format!("[::1]:{port}"));
    assert_eq!(call(&dialer, "a", ConnRule::Any).await.unwrap(), "a");

    let port = TcpListener::bind("[::1]:0").await.unwrap().local_addr().unwrap().port();
    let said = nowhere(&self::dialer(&format!("http://[::1]:{port}/mcp"), Route::default())).await;
    assert_eq!(said, format!("connection refused (ECONNREFUSED [::1]:{port})"));
}
