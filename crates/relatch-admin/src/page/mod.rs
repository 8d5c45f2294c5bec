//! The page of `relatch serve` and the API that it stands on.
//!
//! Decides what is at which path, who may see it, and with which headers it goes out; `Host`, `Origin` and the token
//! have been looked at before. What is shown comes from the [`Watched`] keeper. Never asked about MCP paths: a cookie
//! opens none of them.
//!
//! The page is three files without a build chain. They hold nothing secret and ask nobody but this keeper.

mod events;
mod signin;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request};
use tokio::sync::{Semaphore, mpsc, watch};

pub use self::signin::{CODE_MS, COOKIE_MS, SignIn};
use crate::explain;
use crate::keeper::Keeper;

/// Listeners of `/api/events` at once.
const LISTENERS: usize = 32;
/// What the page's own script says with everything it asks for: a form or a link of another page can't.
const FROM_PAGE: HeaderName = HeaderName::from_static("relatch-page");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Scripts and styles from here only, connections to here only, nothing else; no page may frame this one, and its
/// script may not turn text into markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const INDEX: &str = include_str!("index.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// A keeper that says when there is something new to see.
pub trait Watched: Keeper {
    /// Changes whenever the health of an upstream turns by something that happened.
    fn turns(&self) -> watch::Receiver<u64>;
}

/// What goes out.
#[derive(Debug)]
pub enum Shown {
    /// All of it.
    Whole(Bytes),
    /// Pieces as they come.
    Coming(mpsc::Receiver<Bytes>),
}

/// What a page needs besides its keeper.
pub struct Setting {
    /// Everybody on this machine may look: there is no token.
    pub open: bool,
    /// The port, which sets this keeper's cookie apart: browsers share cookies between the ports of a host.
    pub port: u16,
    /// The keeper's clock, in milliseconds.
    pub clock: Box<dyn Fn() -> u64 + Send + Sync>,
    /// A secret that nobody can guess, a new one each time: visible ASCII without `;`.
    pub secret: fn() -> String,
}

/// The page and the API of one keeper.
pub struct Page {
    keeper: Arc<dyn Watched>,
    setting: Setting,
    signin: SignIn,
    listeners: Arc<Semaphore>,
    looks: Arc<events::Looks>,
}

/// How a request is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// By the token.
    Token,
    /// By the cookie, or because everybody may look; and no other page is behind it.
    Browser,
    /// Not at all.
    Stranger,
}

impl Page {
    /// The page of `keeper`.
    #[must_use]
    pub fn new(keeper: Arc<dyn Watched>, setting: Setting) -> Page {
        let listeners = Arc::new(Semaphore::new(LISTENERS));
        Page { keeper, setting, signin: SignIn::default(), listeners, looks: Arc::default() }
    }

    /// The path of an address that signs in whoever opens it first, for a minute.
    #[must_use]
    pub fn one_time_path(&self) -> String {
        format!("/open/{}", self.signin.offer((self.setting.clock)(), (self.setting.secret)()))
    }

    /// Answers a request, of which `token` says whether it carried the right one. `None` where nothing is. Needs a
    /// running tokio runtime.
    #[must_use]
    pub fn answer(&self, head: &request::Parts, token: bool) -> Option<Response<Shown>> {
        let path = head.uri.path();
        let read = matches!(head.method, Method::GET | Method::HEAD);
        let caller = self.caller(head, token);
        Some(match path {
            "/" | "/page.css" | "/page.js" | "/icon.svg" | "/api/status" | "/api/explain" if !read => {
                only("GET, HEAD")
            }
            "/api/events" if head.method != Method::GET => only("GET"),
            "/api/reconnect" if head.method != Method::POST => only("POST"),
            // These are the same for everybody.
            "/page.css" => whole(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            "/page.js" => whole(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            "/icon.svg" => whole(StatusCode::OK, "image/svg+xml", ICON),
            // A link from elsewhere may lead here; it shows nothing that its own script doesn't ask for.
            "/" if caller != Caller::Stranger || self.may_look(&head.headers) => {
                whole(StatusCode::OK, HTML, INDEX)
            }
            "/" => words(
                StatusCode::FORBIDDEN,
                "Not signed in",
                "Run <code>relatch page</code> on the machine where relatch runs. It opens this page, signed in.",
                "",
            ),
            "/api/status" | "/api/explain" | "/api/events" | "/api/reconnect"
                if caller == Caller::Stranger =>
            {
                fault(
                    StatusCode::FORBIDDEN,
                    "The `Relatch-Token` header is missing or wrong, and no page of this keeper is signed in",
                )
            }
            "/api/status" => whole(StatusCode::OK, JSON, events::status_json(&*self.keeper)),
            "/api/explain" => {
                let pages: std::collections::BTreeMap<_, _> = explain::pages().collect();
                whole(StatusCode::OK, JSON, events::json(&pages))
            }
            "/api/events" => self.events(),
            "/api/reconnect" => self.reconnect(head, caller),
            _ => match path.strip_prefix("/open/") {
                Some(_) if head.method != Method::GET => only("GET"),
                Some(code) => self.open(code),
                None => return None,
            },
        })
    }

    fn caller(&self, head: &request::Parts, token: bool) -> Caller {
        if token {
            Caller::Token
        } else if self.may_look(&head.headers) && of_this_page(&head.headers) {
            Caller::Browser
        } else {
            Caller::Stranger
        }
    }

    fn may_look(&self, headers: &HeaderMap) -> bool {
        let now = (self.setting.clock)();
        let name = self.cookie_name();
        self.setting.open || cookies(headers, &name).any(|cookie| self.signin.knows(now, cookie))
    }

    fn cookie_name(&self) -> String {
        format!("relatch-{}", self.setting.port)
    }

    /// Somebody opens a one-time address. The page follows by itself: a browser would keep a strict cookie back from a
    /// redirect that began at another site, such as a terminal in a browser.
    fn open(&self, code: &str) -> Response<Shown> {
        let Some(cookie) = self.signin.redeem((self.setting.clock)(), code, (self.setting.secret)()) else {
            return words(
                StatusCode::FORBIDDEN,
                "This address is spent",
                "It works once, and for a minute. Run <code>relatch page</code> again.",
                "",
            );
        };
        let mut response = words(
            StatusCode::OK,
            "Signed in",
            "<a href=\"/\">Go on to the page</a>",
            "<meta http-equiv=\"refresh\" content=\"0; url=/\">",
        );
        let cookie = format!(
            "{}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}",
            self.cookie_name(),
            COOKIE_MS / 1_000
        );
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        response
    }

    fn events(&self) -> Response<Shown> {
        let Ok(place) = Arc::clone(&self.listeners).try_acquire_owned() else {
            let told = format!("{LISTENERS} listeners are told of events already; close one of them");
            return fault(StatusCode::SERVICE_UNAVAILABLE, &told);
        };
        let (out, coming) = mpsc::channel(4);
        let (keeper, looks) = (Arc::clone(&self.keeper), Arc::clone(&self.looks));
        tokio::spawn(async move {
            let _place = place;
            events::tell(keeper, looks, out).await;
        });
        let mut response = guarded(Response::new(Shown::Coming(coming)), "text/event-stream");
        // Proxies that buffer would hold events back.
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// `POST /api/reconnect?name=NAME`, or all upstreams without a name.
    fn reconnect(&self, head: &request::Parts, caller: Caller) -> Response<Shown> {
        // Browsers say where a POST comes from; only this page's own script adds the header.
        let from_page = head.headers.contains_key(FROM_PAGE) && head.headers.contains_key(ORIGIN);
        if caller != Caller::Token && !from_page {
            let told = "Only the page itself may ask for this with its cookie; others send `Relatch-Token`";
            return fault(StatusCode::FORBIDDEN, told);
        }
        let query = head.uri.query().unwrap_or_default();
        let name = url::form_urlencoded::parse(query.as_bytes())
            .find_map(|(key, value)| (key == "name").then(|| value.into_owned()));
        let outcomes = self.keeper.reconnect(name.as_deref());
        match name {
            Some(name) if outcomes.is_empty() => {
                let name: String = name.chars().take(64).collect();
                fault(StatusCode::NOT_FOUND, &format!("No upstream is called `{name}`"))
            }
            Some(_) | None => whole(StatusCode::OK, JSON, events::json(&outcomes)),
        }
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").field("signin", &self.signin).finish_non_exhaustive()
    }
}

/// Whether nothing says that another page is behind this request. A page on another port of this host is another
/// page, although its browser calls it the same site and sends it the cookie.
fn of_this_page(headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let site = text(&SEC_FETCH_SITE).is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin = text(&ORIGIN).is_none_or(|origin| {
        let place = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        place.is_some_and(|place| text(&HOST).is_some_and(|host| host.eq_ignore_ascii_case(place)))
    });
    site && origin
}

fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(move |pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// A page of a few words; all of them are written here.
fn words(status: StatusCode, title: &str, text: &str, more: &str) -> Response<Shown> {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n{more}<title>{title} · relatch</title>\n<link rel=\"icon\" \
         href=\"/icon.svg\">\n<link rel=\"stylesheet\" href=\"/page.css\">\n<body class=\"words\">\n<main>\n\
         <h1>{title}</h1>\n<p>{text}</p>\n</main>\n</body>\n</html>\n"
    );
    whole(status, HTML, html)
}

fn fault(status: StatusCode, words: &str) -> Response<Shown> {
    whole(status, JSON, serde_json::json!({ "error": words }).to_string())
}

fn only(methods: &'static str) -> Response<Shown> {
    let mut response = fault(StatusCode::METHOD_NOT_ALLOWED, &format!("Only {methods} is answered here"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn whole(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Shown> {
    let mut response = guarded(Response::new(Shown::Whole(text.into())), kind);
    *response.status_mut() = status;
    response
}

/// With the headers that everything here goes out with.
fn guarded(mut response: Response<Shown>, kind: &'static str) -> Response<Shown> {
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
