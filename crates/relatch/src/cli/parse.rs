//! Values of the command line. An error says what was expected; it never repeats a value that may be a secret.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue};
use relatch_core::policy::Transport;
use relatch_net::upstream::dial::{Target, TargetError};

use crate::render::Failure;

/// The longest span that makes sense anywhere on the command line.
const LONGEST_MS: u64 = 24 * 60 * 60 * 1_000;

/// Headers that belong to the connection or to relatch; a configured one would break either.
const NOT_CONFIGURABLE: [&str; 15] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `auto`, `http` or `sse`.
pub(crate) fn transport(text: &str) -> Result<Transport, String> {
    match text {
        "auto" => Ok(Transport::Auto),
        "http" => Ok(Transport::Http),
        "sse" => Ok(Transport::Sse),
        _ => Err("it is `auto`, `http` or `sse`".to_owned()),
    }
}

/// `45s`, `5m`, `1h`, `500ms`, in milliseconds.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    let expected = || "expected a number with its unit, such as `500ms`, `45s`, `5m` or `1h`".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(unit).filter(|ms| *ms <= LONGEST_MS).ok_or_else(|| "longer than `24h`".to_owned())
}

/// `ADDR:PORT`.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an address with its port, such as `127.0.0.1:7332` or `[::1]:7332`".to_owned())
}

/// A host name or address without port, as it stands in `Host`.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 253
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']'));
    if fits {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected a host name, such as `mcp.example.com`".to_owned())
    }
}

/// `GLOB=always|never`.
pub(crate) fn replay(text: &str) -> Result<(String, bool), String> {
    match text.rsplit_once('=') {
        Some((glob, "always")) if !glob.is_empty() => Ok((glob.to_owned(), true)),
        Some((glob, "never")) if !glob.is_empty() => Ok((glob.to_owned(), false)),
        _ => Err("expected a tool or pattern and `always` or `never`, such as `send_*=never`".to_owned()),
    }
}

/// A name of an upstream: it stands in paths, tables and commands.
pub(crate) fn name(text: &str) -> Result<String, Failure> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    Err(Failure::usage(format!("`{text}` can't be the name of a server")).cause(NAMES))
}

/// Whether a variable of the environment can have this name.
pub(crate) fn is_variable(text: &str) -> bool {
    !text.is_empty() && !text.contains(['=', '\0']) && !text.chars().any(char::is_control)
}

/// What a name is made of.
pub(crate) const NAMES: &str =
    "a name has 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-` and begins with a letter or digit";

/// Whether an upstream can have this name.
pub(crate) fn is_name(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    let begins = text.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    begins && text.len() <= 64 && text.bytes().all(inner)
}

/// The address of an upstream.
pub(crate) fn address(text: &str) -> Result<url::Url, Failure> {
    const LIKE: &str = "Give the whole address, such as `http://127.0.0.1:8761/mcp`";
    let wrong = |cause: &str| {
        Failure::usage(format!("`{}` is no address of an MCP server", without_secrets(text)))
            .cause(cause)
            .hint(LIKE)
    };
    match Target::parse(text) {
        Ok(target) if target.socket().is_some() => {
            return url::Url::parse(&target.address()).map_err(|cause| wrong(&cause.to_string()));
        }
        Err(fault @ TargetError::Socket(_)) => return Err(wrong(&fault.to_string()).hint(fault.hint())),
        Ok(_) | Err(_) => {}
    }
    let url = url::Url::parse(text).map_err(|cause| match cause {
        url::ParseError::RelativeUrlWithoutBase => wrong("it does not begin with `http://` or `https://`"),
        cause => wrong(&cause.to_string()),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(&format!("`{}` is neither `http` nor `https`", url.scheme())));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it carries a user or password")
            .hint("Send credentials with `--header 'Authorization: …'`"));
    }
    if url.fragment().is_some() {
        return Err(wrong("it has a part behind `#`, which is never sent"));
    }
    Ok(url)
}

/// `K:V`, with `${NAME}` filled in from the environment.
pub(crate) fn header(text: &str) -> Result<(String, String), Failure> {
    let (name, value) = literal_header(text)?;
    let known = |variable: &str| std::env::var(variable).ok();
    let value = filled(&format!("--header {name}"), &value, known, &|variable, cause| {
        unset(&format!("The header `{name}`"), variable, cause)
    })?;
    Ok((name.clone(), sendable(&name, value)?))
}

/// `K=NAME`: the header has the value of an environment variable, whatever that is. Clients that fill in `${…}` in what
/// they start leave this alone.
pub(crate) fn header_env(text: &str) -> Result<(String, String), Failure> {
    let (name, variable) = text.split_once('=').ok_or_else(|| {
        Failure::usage("A `--header-env` has no `=` between header and variable")
            .hint("Write it as `--header-env Authorization=NAME`, where `NAME` is set to the whole value")
    })?;
    let (name, _) = literal_header(&format!("{name}:"))?;
    let value =
        std::env::var(variable).map_err(|cause| unset(&format!("The header `{name}`"), variable, &cause))?;
    Ok((name.clone(), sendable(&name, value)?))
}

/// The address of an upstream, which `env:NAME` takes from the environment: there others can't see it, as they can on a
/// command line.
pub(crate) fn address_or_variable(text: &str) -> Result<url::Url, Failure> {
    let Some(variable) = text.strip_prefix("env:") else { return address(text) };
    let value = std::env::var(variable).map_err(|_| {
        Failure::usage(format!("The server's address is to come from `{variable}`, which is not set"))
            .hint(format!("Set `{variable}` where relatch is started, or give the address itself"))
    })?;
    address(value.trim())
}

/// `K=V` with `${NAME}` filled in from the environment, or `K`, which is as it is there.
pub(crate) fn variable(text: &str) -> Result<(String, String), Failure> {
    let known = |variable: &str| std::env::var(variable).ok();
    let (name, value) = literal_variable(text)?;
    let value = match value {
        Some(value) => filled(&format!("--env {name}"), &value, known, &|variable, cause| {
            unset(&format!("The variable `{name}`"), variable, cause)
        })?,
        None => {
            std::env::var(&name).map_err(|cause| unset(&format!("The variable `{name}`"), &name, &cause))?
        }
    };
    Ok((name, value))
}

/// `K=V` or `K` as it stands.
pub(crate) fn literal_variable(text: &str) -> Result<(String, Option<String>), Failure> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    if !is_variable(name) {
        return Err(Failure::usage("An `--env` has no name of a variable")
            .hint("Write it as `--env NAME=VALUE`, or as `--env NAME` for one of the environment"));
    }
    Ok((name.to_owned(), value.map(str::to_owned)))
}

/// `${NAME}` becomes the value of that variable; `$${` is a `${` that is meant.
fn filled(
    option: &str,
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
    unset: &dyn Fn(&str, &std::env::VarError) -> Failure,
) -> Result<String, Failure> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let named = from[2..].split_once('}').filter(|(name, _)| {
            let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
            !name.is_empty() && name.bytes().all(inner) && !name.as_bytes()[0].is_ascii_digit()
        });
        let Some((name, after)) = named else {
            return Err(Failure::usage(format!("`{option}` has a `${{` that names no variable"))
                .hint("Write `${NAME}` for a variable, or `$${` where these characters are meant"));
        };
        out.push_str(&variable(name).ok_or_else(|| unset(name, &std::env::VarError::NotPresent))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn unset(what: &str, variable: &str, cause: &std::env::VarError) -> Failure {
    let why = match cause {
        std::env::VarError::NotPresent => "is not set",
        std::env::VarError::NotUnicode(_) => "is no text",
    };
    Failure::usage(format!("{what} is to come from `{variable}`, which {why}"))
        .hint(format!("Set `{variable}` where relatch is started, or leave it out"))
}

/// `K:V` as it stands.
pub(crate) fn literal_header(text: &str) -> Result<(String, String), Failure> {
    let (name, value) = text.split_once(':').ok_or_else(|| {
        Failure::usage("A `--header` has no colon between name and value")
            .hint("Write it as `--header 'Authorization: Bearer …'`")
    })?;
    let (name, value) = (name.trim(), value.trim());
    match header_name(name) {
        Ok(()) => {}
        Err(NoHeader::NotAllowed) => {
            return Err(Failure::usage("A `--header` has a name that HTTP does not allow")
                .cause("a name is made of letters, digits and `-`"));
        }
        Err(NoHeader::NotConfigurable) => {
            return Err(Failure::usage(format!("`--header {name}` can't be set"))
                .cause("relatch or the connection itself sets it for each request"));
        }
    }
    Ok((name.to_owned(), sendable(name, value.to_owned())?))
}

/// The value of a header, where HTTP allows it.
fn sendable(name: &str, value: String) -> Result<String, Failure> {
    let value = value.trim();
    if !header_value(value) {
        return Err(Failure::usage(format!("`--header {name}` has a value that HTTP does not allow"))
            .cause("line breaks and control characters can't be sent"));
    }
    Ok(value.to_owned())
}

/// Why a header can't be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHeader {
    /// HTTP has no such names.
    NotAllowed,
    /// relatch or the connection sets it.
    NotConfigurable,
}

/// Whether a header of this name can be configured.
pub(crate) fn header_name(name: &str) -> Result<(), NoHeader> {
    let known = name.parse::<HeaderName>().map_err(|_| NoHeader::NotAllowed)?;
    if NOT_CONFIGURABLE.contains(&known.as_str()) || known.as_str().starts_with("relatch-") {
        return Err(NoHeader::NotConfigurable);
    }
    Ok(())
}

/// Whether HTTP can carry this value.
pub(crate) fn header_value(value: &str) -> bool {
    HeaderValue::from_str(value).is_ok()
}

/// What was typed, as far as it can't be a secret.
fn without_secrets(text: &str) -> &str {
    if text.contains('@') {
        return "(…@…)";
    }
    text.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_a_limit() {
        for (text, ms) in [("500ms", 500), ("45s", 45_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(ms));
        }
        for text in ["", "45", "s", "-1s", "4 5s", "1.5s", "1d", "25h", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        for text in ["a", "gmail", "0a.b_c-d", &"a".repeat(64)] {
            assert!(name(text).is_ok(), "{text}");
        }
        for text in ["", "Gmail", "-a", ".a", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_whole_and_without_credentials() {
        assert!(address("http://127.0.0.1:8761/mcp?key=1").is_ok());
        for (text, whole) in [
            ("unix:/run/mcp.sock", "unix:/run/mcp.sock"),
            ("http://unix:/run/a b.sock:/x?k=1", "unix:/run/a%20b.sock:/x?k=1"),
        ] {
            assert_eq!(address(text).unwrap().as_str(), whole);
        }
        assert!(address("unix:mcp.sock").unwrap_err().hint.unwrap().contains("unix:/run/mcp.sock"));
        for text in ["", "127.0.0.1:8761", "/mcp", "ftp://a/b", "http://", "http://me:pw@a/", "http://a/#b"] {
            let failure = address(text).unwrap_err();
            assert_eq!(failure.exit, crate::exit::USAGE);
            assert!(!failure.what.contains("pw"), "{failure}");
        }
    }

    #[test]
    fn headers_are_checked_and_never_repeated_in_errors() {
        assert_eq!(
            header("Authorization: Bearer x:y").unwrap(),
            ("Authorization".into(), "Bearer x:y".into())
        );
        for text in [
            "Bearer s3cret",
            "a b: s3cret",
            "X: s3cret\n",
            "Host: s3cret",
            "relatch-token: s3cret",
            ": s3cret",
        ] {
            let text = if text.ends_with('\n') { "X: s3cret\nY: 1" } else { text };
            let failure = header(text).unwrap_err();
            assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
        }
    }

    #[test]
    fn a_header_is_filled_in_from_the_environment() {
        let known = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
        let filled = |name: &str, text: &str, known: fn(&str) -> Option<String>| {
            filled(name, text, known, &|variable, cause| unset(name, variable, cause))
        };
        for (text, value) in [
            ("Bearer ${TOKEN}", "Bearer s3cret"),
            ("${TOKEN}${TOKEN}", "s3crets3cret"),
            ("$TOKEN $${TOKEN} $", "$TOKEN ${TOKEN} $"),
        ] {
            assert_eq!(filled("K", text, known).unwrap(), value);
        }
        for text in ["${OTHER}", "${}", "${TOKEN", "${1A}", "${a b}", "${file:x}"] {
            let failure = filled("Authorization", text, known).unwrap_err();
            assert_eq!(failure.exit, crate::exit::USAGE, "{text}");
            assert!(failure.what.contains("Authorization"), "{failure}");
        }
    }

    #[test]
    fn a_variable_is_given_or_that_of_the_environment() {
        assert_eq!(literal_variable("A=b=c").unwrap(), ("A".to_owned(), Some("b=c".to_owned())));
        assert_eq!(literal_variable("A").unwrap(), ("A".to_owned(), None));
        assert_eq!(variable("A=x$${B}").unwrap().1, "x${B}");
        for text in ["", "=s3cret", "NO_SUCH_VARIABLE_HERE", "A=${NO_SUCH_VARIABLE_HERE}s3cret"] {
            let failure = variable(text).unwrap_err();
            assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
        }
    }

    #[test]
    fn replay_is_a_pattern_and_a_word() {
        assert_eq!(replay("send_*=never"), Ok(("send_*".to_owned(), false)));
        assert_eq!(replay("a=b=always"), Ok(("a=b".to_owned(), true)));
        for text in ["send_*", "=always", "a=sometimes"] {
            assert!(replay(text).is_err());
        }
    }
}
