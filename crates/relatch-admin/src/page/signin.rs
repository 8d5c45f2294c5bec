//! Who may look at the page without the token: a one-time code turns into a cookie.
//!
//! Browsers can't send a header of their own with a page, so `relatch page` asks its keeper for an address that works
//! once and soon; opening it sets a cookie. Codes and cookies live in memory and end with the keeper. Time (ms of the
//! keeper's clock) and chance are inputs.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq;

/// A code is good for so long.
pub const CODE_MS: u64 = 60_000;
/// A cookie is good for so long.
pub const COOKIE_MS: u64 = 12 * 3_600_000;
/// Unused codes at a time; the oldest goes.
const CODES: usize = 16;
/// Cookies at a time; the oldest goes.
const COOKIES: usize = 64;

/// The codes and cookies of one keeper.
#[derive(Debug, Default)]
pub struct SignIn {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    codes: Secrets,
    cookies: Secrets,
}

/// Secrets with the time when each ends, oldest first.
#[derive(Default)]
struct Secrets(VecDeque<(String, u64)>);

impl SignIn {
    /// A new code, which is `random`.
    pub fn offer(&self, now: u64, random: String) -> String {
        self.lock().codes.add(random.clone(), now + CODE_MS, CODES);
        random
    }

    /// Takes a code that is known and still good, and gives the cookie for it, which is `random`. No code is taken twice.
    pub fn redeem(&self, now: u64, code: &str, random: String) -> Option<String> {
        let mut inner = self.lock();
        if !inner.codes.take(now, code) {
            return None;
        }
        inner.cookies.add(random.clone(), now + COOKIE_MS, COOKIES);
        Some(random)
    }

    /// Whether this cookie is known and still good.
    pub fn knows(&self, now: u64, cookie: &str) -> bool {
        self.lock().cookies.find(now, cookie).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Secrets {
    fn add(&mut self, secret: String, until: u64, most: usize) {
        if self.0.len() == most {
            self.0.pop_front();
        }
        self.0.push_back((secret, until));
    }

    fn take(&mut self, now: u64, given: &str) -> bool {
        match self.find(now, given) {
            Some(at) => self.0.remove(at).is_some(),
            None => false,
        }
    }

    /// Looks at all of them, so that the time it takes says nothing.
    fn find(&mut self, now: u64, given: &str) -> Option<usize> {
        self.0.retain(|(_, until)| *until > now);
        let mut found = None;
        for (at, (secret, _)) in self.0.iter().enumerate() {
            if bool::from(secret.as_bytes().ct_eq(given.as_bytes())) {
                found = Some(at);
            }
        }
        found
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_gives_one_cookie_and_no_second() {
        let signin = SignIn::default();
        let code = signin.offer(0, "code".into());
        assert_eq!(signin.redeem(1, &code, "cookie".into()).as_deref(), Some("cookie"));
        assert_eq!(signin.redeem(2, &code, "another".into()), None);
        assert!(signin.knows(3, "cookie") && !signin.knows(3, "another") && !signin.knows(3, "code"));
    }

    #[test]
    fn a_code_ends_after_a_minute_and_a_cookie_after_half_a_day() {
        let signin = SignIn::default();
        let (late, soon) = (signin.offer(0, "a".into()), signin.offer(0, "b".into()));
        assert!(signin.redeem(CODE_MS - 1, &soon, "cookie".into()).is_some());
        assert_eq!(signin.redeem(CODE_MS, &late, "other".into()), None);
        let end = CODE_MS - 1 + COOKIE_MS;
        assert!(signin.knows(end - 1, "cookie"));
        assert!(!signin.knows(end, "cookie"));
    }

    #[test]
    fn what_is_wrong_or_empty_opens_nothing() {
        let signin = SignIn::default();
        signin.offer(0, "code".into());
        for wrong in ["", "cod", "code ", "CODE", "codecode"] {
            assert_eq!(signin.redeem(1, wrong, "cookie".into()), None, "{wrong}");
            assert!(!signin.knows(1, wrong), "{wrong}");
        }
        assert!(signin.redeem(1, "code", "cookie".into()).is_some());
    }

    #[test]
    fn codes_and_cookies_are_bounded_and_the_oldest_go() {
        let signin = SignIn::default();
        for n in 0..=COOKIES {
            for m in 0..=CODES {
                signin.offer(0, format!("code-{n}-{m}"));
            }
            assert_eq!(signin.redeem(1, &format!("code-{n}-0"), "never".into()), None);
            assert!(signin.redeem(1, &format!("code-{n}-1"), format!("cookie-{n}")).is_some());
        }
        assert!(!signin.knows(2, "cookie-0") && signin.knows(2, "cookie-1"));
        assert!(!format!("{signin:?}").contains("cookie-1"));
    }
}
