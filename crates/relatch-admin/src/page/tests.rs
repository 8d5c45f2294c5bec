//! The page's door: what is at which path, for whom, and with which headers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::*;
use crate::history::ServerHistory;
use crate::journal::Journal;
use crate::keeper::ReconnectOutcome;
use crate::schema::{KeeperKind, KeeperStatus};

struct Still {
    journal: Arc<Journal>,
    turned: watch::Sender<u64>,
    asked: Mutex<Vec<Option<String>>>,
    /// How often its status was asked for.
    looked: AtomicU64,
}

impl Keeper for Still {
    fn status(&self) -> KeeperStatus {
        self.looked.fetch_add(1, Ordering::Relaxed);
        KeeperStatus {
            pid: 1,
            kind: KeeperKind::Serve,
            version: "0.1.0".into(),
            since: Timestamp::from_second(1_700_000_000).unwrap(),
            servers: vec![],
            journal: self.journal.status(),
        }
    }

    fn reconnect(&self, name: Option<&str>) -> Vec<ReconnectOutcome> {
        self.asked.lock().unwrap().push(name.map(str::to_owned));
        let known = name.is_none_or(|name| name == "gmail");
        known.then(|| ReconnectOutcome { name: "gmail".into(), latches: 1 }).into_iter().collect()
    }

    fn history(&self, _: Option<&str>, _: Option<Timestamp>) -> Vec<ServerHistory> {
        vec![ServerHistory { name: "gmail".into(), turns: vec![], minutes: vec![] }]
    }

    fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }
}

impl Watched for Still {
    fn turns(&self) -> watch::Receiver<u64> {
        self.turned.subscribe()
    }
}

fn secret() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("secret-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A page with a clock that stands until it is moved.
fn page(open: bool) -> (Page, Arc<Still>, Arc<AtomicU64>) {
    let still = Arc::new(Still {
        journal: Journal::in_memory(),
        turned: watch::Sender::new(0),
        asked: Mutex::default(),
        looked: AtomicU64::new(0),
    });
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let clock = Box::new(move || clock.load(Ordering::Relaxed));
    let setting = Setting { open, port: 7332, clock, secret };
    (Page::new(Arc::clone(&still) as Arc<dyn Watched>, setting), still, time)
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = http::Request::builder().method(method).uri(path).header("host", "127.0.0.1:7332");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn status(page: &Page, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    page.answer(&head(method, path, headers), false).unwrap().status().as_u16()
}

fn text(response: Response<Shown>) -> String {
    match response.into_body() {
        Shown::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Shown::Coming(_) => panic!("it comes in pieces"),
    }
}

/// Opens a one-time address and gives the cookie as a browser would send it.
fn signed_in(page: &Page) -> String {
    let response = page.answer(&head("GET", &page.one_time_path(), &[]), false).unwrap();
    assert_eq!(response.status(), 200);
    let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

const API: [(&str, &str); 4] = [
    ("GET", "/api/status"),
    ("GET", "/api/explain"),
    ("GET", "/api/events"),
    ("POST", "/api/reconnect?name=gmail"),
];

#[tokio::test]
async fn a_one_time_address_signs_in_once() {
    let (page, _, _) = page(false);
    let path = page.one_time_path();
    let first = page.answer(&head("GET", &path, &[]), false).unwrap();
    let cookie = first.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    let (pair, flags) = cookie.split_once("; ").unwrap();
    assert!(pair.starts_with("relatch-7332=secret-"), "{cookie}");
    assert_eq!(flags, "Path=/; HttpOnly; SameSite=Strict; Max-Age=43200");
    assert!(text(first).contains("url=/"));
    let second = page.answer(&head("GET", &path, &[]), false).unwrap();
    assert_eq!(second.status(), 403);
    assert!(!second.headers().contains_key(SET_COOKIE));
    assert!(text(second).contains("relatch page"));
    // Looking without opening takes nothing.
    let path = page.one_time_path();
    assert_eq!(status(&page, "HEAD", &path, &[]), 405);
    assert_eq!(status(&page, "GET", &path, &[]), 200);
    assert_eq!(status(&page, "GET", "/open/", &[]), 403);
}

#[tokio::test]
async fn a_one_time_address_and_its_cookie_end_in_time() {
    let (page, _, time) = page(false);
    let path = page.one_time_path();
    let cookie = signed_in(&page);
    time.store(CODE_MS, Ordering::Relaxed);
    assert_eq!(status(&page, "GET", &path, &[]), 403);
    assert_eq!(status(&page, "GET", "/api/status", &[("cookie", &cookie)]), 200);
    time.store(COOKIE_MS, Ordering::Relaxed);
    assert_eq!(status(&page, "GET", "/api/status", &[("cookie", &cookie)]), 403);
    assert_eq!(status(&page, "GET", "/", &[("cookie", &cookie)]), 403);
}

#[tokio::test]
async fn without_sign_in_there_is_nothing_but_words() {
    let (page, still, _) = page(false);
    let start = page.answer(&head("GET", "/", &[]), false).unwrap();
    assert_eq!(start.status(), 403);
    assert!(text(start).contains("Run <code>relatch page</code>"));
    let other = signed_in(&page).replace("7332", "7333");
    for cookie in ["", "relatch-7332=", "relatch-7332=wrong", "other=1; relatch-7332=wrong", &other] {
        for (method, path) in API {
            let headers = [("cookie", cookie), ("relatch-page", "1"), ("origin", "http://127.0.0.1:7332")];
            assert_eq!(status(&page, method, path, &headers), 403, "{method} {path} {cookie}");
        }
    }
    assert!(still.asked.lock().unwrap().is_empty());
    for path in ["/page.css", "/page.js", "/icon.svg"] {
        assert_eq!(status(&page, "GET", path, &[]), 200, "{path}");
    }
}

#[tokio::test]
async fn the_cookie_opens_the_page_and_the_api() {
    let (page, still, _) = page(false);
    let cookie = format!("a=b; {}; c=d", signed_in(&page));
    for path in ["/", "/api/status", "/api/explain", "/api/events"] {
        assert_eq!(status(&page, "GET", path, &[("cookie", &cookie)]), 200, "{path}");
    }
    let own = [("cookie", &*cookie), ("relatch-page", "1"), ("origin", "http://127.0.0.1:7332")];
    let answer = page.answer(&head("POST", "/api/reconnect?name=gmail", &own), false).unwrap();
    assert_eq!(text(answer), r#"[{"name":"gmail","latches":1}]"#);
    assert_eq!(*still.asked.lock().unwrap(), [Some("gmail".to_owned())]);
    assert_eq!(status(&page, "POST", "/api/reconnect?name=no%20such", &own), 404);
    // Paths of MCP are none of the page's.
    assert!(page.answer(&head("POST", "/gmail/mcp", &own), true).is_none());
}

#[tokio::test]
async fn another_page_gets_nothing_by_the_cookie_even_from_the_same_host() {
    let (page, still, _) = page(false);
    let cookie = signed_in(&page);
    let foreign: [&[(&str, &str)]; 5] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://127.0.0.1:3000")],
        &[("origin", "http://localhost:7332")],
        &[("origin", "null")],
    ];
    for more in foreign {
        for (method, path) in API {
            let headers = [&[("cookie", &*cookie), ("relatch-page", "1")], more].concat();
            assert_eq!(status(&page, method, path, &headers), 403, "{method} {path} {more:?}");
        }
    }
    // A POST that a form could have sent, or whose origin nobody vouches for.
    let form: [&[(&str, &str)]; 2] = [&[("origin", "http://127.0.0.1:7332")], &[("relatch-page", "1")]];
    for more in form {
        let headers = [&[("cookie", &*cookie)], more].concat();
        assert_eq!(status(&page, "POST", "/api/reconnect", &headers), 403, "{more:?}");
    }
    assert!(still.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_token_everybody_may_look_and_only_the_page_may_act() {
    let (page, still, _) = page(true);
    for path in ["/", "/api/status", "/api/explain", "/api/events"] {
        assert_eq!(status(&page, "GET", path, &[]), 200, "{path}");
    }
    assert_eq!(status(&page, "POST", "/api/reconnect", &[]), 403);
    assert_eq!(status(&page, "GET", "/api/status", &[("sec-fetch-site", "cross-site")]), 403);
    let own = [("relatch-page", "1"), ("origin", "http://127.0.0.1:7332")];
    assert_eq!(status(&page, "POST", "/api/reconnect", &own), 200);
    assert_eq!(*still.asked.lock().unwrap(), [None]);
}

#[tokio::test]
async fn who_has_the_token_needs_no_cookie() {
    let (page, _, _) = page(false);
    for (method, path) in API {
        assert_eq!(page.answer(&head(method, path, &[]), true).unwrap().status(), 200, "{method} {path}");
    }
}

#[tokio::test]
async fn everything_goes_out_guarded() {
    let (page, _, _) = page(false);
    for path in ["/", "/page.css", "/page.js", "/icon.svg", "/api/status", "/api/events", "/open/x"] {
        for token in [true, false] {
            let response = page.answer(&head("GET", path, &[]), token).unwrap();
            let header = |name: &str| response.headers()[name].to_str().unwrap();
            let policy = header("content-security-policy");
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path} {policy}");
            assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("x-frame-options"), "DENY");
            assert_eq!(header("referrer-policy"), "no-referrer");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        }
    }
    // What the policy forbids isn't there.
    assert!(!INDEX.contains("<style") && !INDEX.contains(" style=") && !INDEX.contains(" onclick="));
    assert_eq!(INDEX.matches("<script").count(), 1);
    for file in [INDEX, STYLE, SCRIPT, ICON] {
        let named = file.replace("http://www.w3.org/2000/svg", "");
        assert!(!named.contains("http://") && !named.contains("https://") && !named.contains("innerHTML"));
    }
}

#[tokio::test]
async fn other_verbs_and_paths_are_named() {
    let (page, _, _) = page(true);
    assert_eq!(status(&page, "POST", "/", &[]), 405);
    assert_eq!(status(&page, "DELETE", "/api/status", &[]), 405);
    assert_eq!(status(&page, "HEAD", "/api/events", &[]), 405);
    assert_eq!(status(&page, "GET", "/api/reconnect", &[]), 405);
    for path in ["/nothing", "/api", "/api/", "/page", "/open"] {
        assert!(page.answer(&head("GET", path, &[]), true).is_none(), "{path}");
    }
}

/// The next event: its name and JSON.
async fn next(coming: &mut mpsc::Receiver<Bytes>) -> (String, serde_json::Value) {
    let waiting = tokio::time::timeout(std::time::Duration::from_secs(20), coming.recv());
    let text = String::from_utf8(waiting.await.unwrap().unwrap().to_vec()).unwrap();
    let (name, json) = text.trim_end().strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
    (name.to_owned(), serde_json::from_str(json).unwrap())
}

fn lost(detail: &str) -> relatch_core::journal::Entry {
    let what = relatch_core::journal::What::Lost;
    relatch_core::journal::Entry { detail: Some(detail.into()), ..relatch_core::journal::Entry::new(what) }
}

#[tokio::test]
async fn a_listener_hears_all_of_it_and_then_what_is_new() {
    let (page, still, _) = page(true);
    still.journal.record(Timestamp::now(), "gmail", lost("before"));
    let response = page.answer(&head("GET", "/api/events", &[]), false).unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    let Shown::Coming(mut coming) = response.into_body() else { panic!("it is whole") };
    assert_eq!(next(&mut coming).await.0, "clock");
    let (name, history) = next(&mut coming).await;
    assert_eq!((name.as_str(), &history["servers"][0]["name"]), ("history", &"gmail".into()));
    assert!(history["from"].is_null());
    let (name, status) = next(&mut coming).await;
    assert_eq!((name.as_str(), &status["keepers"][0]["pid"]), ("status", &1.into()));
    let (name, journal) = next(&mut coming).await;
    assert_eq!((name.as_str(), &journal[0]["detail"]), ("journal", &"before".into()));
    still.journal.record(Timestamp::now(), "gmail", lost("after"));
    let (name, journal) = next(&mut coming).await;
    // What has not changed is not told again.
    assert_eq!((name.as_str(), &journal[0]["detail"]), ("journal", &"after".into()));
}

#[tokio::test(start_paused = true)]
async fn a_storm_costs_four_looks_a_second_however_many_listen() {
    let (page, still, _) = page(true);
    for _ in 0..LISTENERS {
        let response = page.answer(&head("GET", "/api/events", &[]), false).unwrap();
        let Shown::Coming(mut coming) = response.into_body() else { panic!("it is whole") };
        tokio::spawn(async move { while coming.recv().await.is_some() {} });
        // They come at different moments.
        tokio::time::sleep(std::time::Duration::from_millis(7)).await;
    }
    let before = still.looked.load(Ordering::Relaxed);
    for _ in 0..500 {
        still.journal.record(Timestamp::now(), "gmail", lost("a storm"));
        still.turned.send_modify(|turned| *turned += 1);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let looked = still.looked.load(Ordering::Relaxed) - before;
    assert!((20..=41).contains(&looked), "{looked} looks in 10 s");
}

#[tokio::test]
async fn listeners_are_bounded_and_one_that_leaves_makes_room() {
    let (page, _, _) = page(true);
    let mut all: Vec<_> =
        (0..LISTENERS).map(|_| page.answer(&head("GET", "/api/events", &[]), false).unwrap()).collect();
    assert!(all.iter().all(|response| response.status() == 200));
    assert_eq!(status(&page, "GET", "/api/events", &[]), 503);
    all.pop();
    let again = async {
        while status(&page, "GET", "/api/events", &[]) == 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), again).await.unwrap();
}
