//! Units of systemd, for the user's own instance.
//!
//! The service says itself when it is ready and that it still works (`sd_notify(3)`); wrong usage is not tried again.

use std::path::{Path, PathBuf};

use super::{Service, Unit, signed};

const SERVICE: &str = "relatch.service";
const SOCKET: &str = "relatch.socket";

pub(super) fn places(config: &Path) -> Vec<PathBuf> {
    let folder = config.join("systemd/user");
    vec![folder.join(SERVICE), folder.join(SOCKET)]
}

pub(super) fn units(service: &Service, config: &Path) -> Vec<Unit> {
    let places = places(config);
    let command: Vec<String> = [service.program.to_string_lossy().as_ref()]
        .into_iter()
        .chain(service.arguments.iter().map(String::as_str))
        .map(quoted)
        .collect();
    let (needs, wanted) = match service.socket {
        Some(_) => ("Requires=relatch.socket\nAfter=relatch.socket\n", String::new()),
        None => ("", "\n[Install]\nWantedBy=default.target\n".to_owned()),
    };
    let text = format!(
        "[Unit]
Description=relatch keeps MCP connections alive
{needs}
[Service]
Type=notify
ExecStart={}
ExecReload=/bin/kill -HUP $MAINPID
# Wrong usage and a store that another keeper has locked are not mended by trying again.
RestartPreventExitStatus=2 4
Restart=on-failure
RestartSec=1
WatchdogSec=30
# Running calls get 10 s to end.
TimeoutStopSec=15
UMask=0077
NoNewPrivileges=yes
{wanted}",
        command.join(" ")
    );
    let mut units = vec![Unit { path: places[0].clone(), text: signed(&text, |line| format!("# {line}")) }];
    if let Some(address) = service.socket {
        let text = format!(
            "[Unit]
Description=where relatch's first client knocks

[Socket]
ListenStream={address}
NoDelay=yes

[Install]
WantedBy=sockets.target
"
        );
        units.push(Unit { path: places[1].clone(), text: signed(&text, |line| format!("# {line}")) });
    }
    units
}

pub(super) fn start(socket: bool) -> Vec<Vec<String>> {
    vec![reload(), systemctl(&["enable", "--now", if socket { SOCKET } else { SERVICE }])]
}

pub(super) fn stop(places: &[PathBuf]) -> Vec<Vec<String>> {
    // The socket first: otherwise a client that knocks starts the service again.
    let mut names: Vec<&str> = places.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    names.sort_by_key(|name| *name != SOCKET);
    names.iter().map(|name| systemctl(&["disable", "--now", name])).collect()
}

pub(super) fn reload() -> Vec<String> {
    systemctl(&["daemon-reload"])
}

pub(super) fn ask() -> Vec<String> {
    systemctl(&["is-active", SERVICE])
}

fn systemctl(arguments: &[&str]) -> Vec<String> {
    ["systemctl", "--user"].iter().chain(arguments).map(|&word| word.to_owned()).collect()
}

/// A word of `ExecStart=`: quoted, without the meaning of `%`, `$` and backslashes (`systemd.service(5)`, "Command
/// lines").
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:@,?&+~".contains(c);
    let escaped = word.replace('%', "%%").replace('$', "$$").replace('\\', "\\\\").replace('"', "\\\"");
    if !word.is_empty() && word.chars().all(plain) { escaped } else { format!("\"{escaped}\"") }
}
