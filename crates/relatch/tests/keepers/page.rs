//! `relatch page` against keepers that run: which page is meant, and what its one-time address opens.

use crate::stage::{self, Home, Piped, Serve};

/// The path and cookie of what `relatch page --print` gave.
fn open(serve: &Serve, printed: &str) -> (u16, Option<String>) {
    let address = printed.trim_end();
    let base = format!("http://{}", serve.address);
    let path = address.strip_prefix(&base).unwrap_or_else(|| panic!("{address} is not below {base}"));
    let answer = serve.http("GET", path, &[], "");
    let cookie = answer.header("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned());
    (answer.status, cookie)
}

#[test]
fn the_printed_address_signs_in_once_and_its_cookie_opens_no_mcp_path() {
    let peer = stage::echo();
    let home = Home::new();
    let serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let (code, out, err) = home.typed(&["page", "--print"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let (status, cookie) = open(&serve, &out);
    assert_eq!(status, 200);
    let cookie = cookie.unwrap();
    assert_eq!(open(&serve, &out), (403, None), "the address works once");
    let with = [("Cookie", cookie.as_str())];
    for path in ["/", "/api/status", "/api/explain"] {
        assert_eq!(serve.http("GET", path, &with, "").status, 200, "{path}");
    }
    for method in ["POST", "GET", "DELETE"] {
        let answer = serve.http(method, "/x/mcp", &with, "");
        assert!(answer.status == 403 && answer.body.contains("Relatch-Token"), "{method} {answer:?}");
    }
    assert!(peer.got().is_empty());
    // A session is opened anew only for the page's own script.
    let origin = format!("http://{}", serve.address);
    let own = [with[0], ("Origin", origin.as_str()), ("Relatch-Page", "1")];
    assert_eq!(serve.http("POST", "/api/reconnect?name=x", &own[..2], "").status, 403);
    let done = serve.http("POST", "/api/reconnect?name=x", &own, "");
    assert_eq!((done.status, done.body.as_str()), (200, r#"[{"name":"x","latches":0}]"#));
    // The code of one keeper opens no other.
    let other = Home::new();
    let stranger = Serve::start(&other, &[&format!("x={}", peer.url())]);
    assert_eq!(stranger.http("GET", "/api/status", &with, "").status, 403);
}

#[test]
fn the_page_that_is_meant_is_found_or_asked_for() {
    let peer = stage::echo();
    let home = Home::new();
    let (code, _, err) = home.typed(&["page", "--print"]);
    assert!(code == 3 && err.contains("No keeper of this user runs"), "{err}");
    let _piped = Piped::start(&home, &peer.url(), &["--name", "piped"]);
    stage::until("the keeper is there", || (home.typed(&["status"]).0 != 3).then_some(()));
    let (code, _, err) = home.typed(&["page", "--print"]);
    assert!(
        code == 3 && err.contains("No keeper that runs has a page") && err.contains("relatch serve"),
        "{err}"
    );

    let serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    assert_eq!(home.typed(&["page", "--print"]).0, 0);
    let (code, _, err) = home.typed(&["page", "z", "--print"]);
    assert!(code == 2 && err.contains("No keeper has a server called `z`"), "{err}");
    let apart = home.path().join("apart").display().to_string();
    let second = Serve::start(&home, &[&format!("y={}", peer.url()), "--state-dir", &apart, "--no-token"]);
    let (code, out, err) = home.typed(&["page", "--print"]);
    assert!(code == 2 && out.is_empty() && err.contains("Several keepers have a page"), "{err}");
    assert!(err.contains("hint: Name a server of the one that is meant: `relatch page "), "{err}");
    assert_eq!(open(&serve, &home.typed(&["page", "x", "--print"]).1).0, 200);
    assert_eq!(open(&second, &home.typed(&["page", "y", "--print"]).1).0, 200);
    // Without a token the page needs no signing in.
    assert_eq!(second.http("GET", "/", &[], "").status, 200);
    assert_eq!(second.http("GET", "/", &[("Host", "evil.example.com")], "").status, 403);
}
