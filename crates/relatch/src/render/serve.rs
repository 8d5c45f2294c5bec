//! What `serve` says once it listens: where each upstream is found, and the line to paste into a client.

use std::net::SocketAddr;

use super::dev::Listening;

/// The address of one upstream below a listening keeper.
pub(crate) fn address(listen: SocketAddr, name: &str) -> String {
    format!("{}/{name}/mcp", base(listen))
}

/// The address of a listening keeper, without a path.
pub(crate) fn base(listen: SocketAddr) -> String {
    // What listens everywhere is reached here by loopback.
    let host = match listen {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    format!("http://{host}:{}", listen.port())
}

/// One line per upstream with its address, then one per upstream to paste into a client. `listen` is the address that
/// was bound, with its port.
pub(crate) fn listening(listen: SocketAddr, names: &[&str], token: Option<&str>) -> String {
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for name in names {
        text.push_str(&format!("{name:width$}  {}\n", address(listen, name)));
    }
    text.push('\n');
    for name in names {
        text.push_str(&format!("{}\n", paste(listen, name, token)));
    }
    text
}

/// The line to paste into a client.
fn paste(listen: SocketAddr, name: &str, token: Option<&str>) -> String {
    let header = token.map_or(String::new(), |token| format!(" --header \"Relatch-Token: {token}\""));
    format!("claude mcp add --transport http {name} {}{header}", address(listen, name))
}

/// The same of one upstream, for who shows it elsewhere.
pub(crate) fn listening_at(listen: SocketAddr, name: &str, token: Option<&str>) -> Listening {
    Listening { url: address(listen, name), paste: paste(listen, name, token) }
}

/// What a service manager shows of a keeper that works.
pub(crate) fn ready(listen: SocketAddr, servers: usize) -> String {
    format!("{servers} servers at {}", base(listen))
}

/// Where the page is, and how to get in.
pub(crate) fn page(listen: SocketAddr) -> String {
    format!("The page is at {}/ and `relatch page` opens it, signed in\n", base(listen))
}

/// What `relatch stdio` says to somebody who started it by hand.
pub(crate) fn by_hand(name: &str) -> String {
    format!(
        "relatch keeps `{name}` for one client, which speaks MCP here and is what starts this: put this command into \
         its configuration. Ctrl-D ends it\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_keeper_gives_the_lines_to_paste() {
        let listen = "127.0.0.1:7332".parse().unwrap();
        assert_eq!(
            listening(listen, &["gmail", "fs"], Some("t0k")),
            "gmail  http://127.0.0.1:7332/gmail/mcp\n\
             fs     http://127.0.0.1:7332/fs/mcp\n\n\
             claude mcp add --transport http gmail http://127.0.0.1:7332/gmail/mcp --header \"Relatch-Token: t0k\"\n\
             claude mcp add --transport http fs http://127.0.0.1:7332/fs/mcp --header \"Relatch-Token: t0k\"\n"
        );
        assert!(!listening(listen, &["fs"], None).contains("Relatch-Token"));
        assert_eq!(
            page(listen),
            "The page is at http://127.0.0.1:7332/ and `relatch page` opens it, signed in\n"
        );
        assert_eq!(address("0.0.0.0:80".parse().unwrap(), "a"), "http://127.0.0.1:80/a/mcp");
        assert_eq!(address("[::1]:80".parse().unwrap(), "a"), "http://[::1]:80/a/mcp");
    }
}
