//! What a service manager is told, and what it hands over: systemd's readiness, watchdog and sockets
//! (`sd_notify(3)`, `sd_listen_fds(3)`).
//!
//! Without one nothing happens here. It decides nothing; whether the keeper still works, its caller shows by what the
//! watchdog runs before each sign of life.

use std::net::TcpListener;
use std::time::Duration;

use sd_notify::NotifyState;

/// Whether what is printed goes into a log that others keep.
pub(crate) fn is_there() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    set("INVOCATION_ID") || set("NOTIFY_SOCKET") || set("XPC_SERVICE_NAME")
}

/// The socket that was opened for this process, if there is one. To be called before any other thread runs.
pub(crate) fn socket() -> std::io::Result<Option<TcpListener>> {
    let mut given = listenfd::ListenFd::from_env();
    if given.len() > 1 {
        return Err(std::io::Error::other(format!(
            "{} sockets were handed over, and relatch takes one",
            given.len()
        )));
    }
    let socket = given.take_tcp_listener(0)?;
    if let Some(socket) = &socket {
        socket.set_nonblocking(true)?;
    }
    Ok(socket)
}

/// Clients are served from now on.
pub(crate) fn ready(words: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(words)]);
}

/// No more of them; what runs is finished.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what runs")]);
}

/// Shows signs of life, as often as was asked for, for as long as `works` returns.
pub(crate) fn watch(works: impl Fn() + Send + 'static) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        loop {
            works();
            tell(&[NotifyState::Watchdog]);
            tokio::time::sleep((within / 3).max(Duration::from_millis(10))).await;
        }
    });
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, which is no fault.
    if let Err(cause) = sd_notify::notify(state) {
        tracing::debug!(%cause, "the service manager was not told");
    }
}
