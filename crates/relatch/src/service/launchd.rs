//! A property list of launchd, for the user's own domain.

use std::path::{Path, PathBuf};

use super::{Service, Unit, signed};

const LABEL: &str = "dev.relatch.serve";

pub(super) fn place(home: &Path) -> PathBuf {
    home.join("Library/LaunchAgents").join(format!("{LABEL}.plist"))
}

pub(super) fn unit(service: &Service, home: &Path) -> Unit {
    let program = service.program.to_string_lossy();
    let words: Vec<String> = [program.as_ref()]
        .into_iter()
        .chain(service.arguments.iter().map(String::as_str))
        .map(|word| format!("    <string>{}</string>\n", escaped(word)))
        .collect();
    let log = escaped(&home.join("Library/Logs/relatch.log").to_string_lossy());
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<plist version=\"1.0\">
<dict>
  <key>Label</key>
  <string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
{}  </array>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>5</integer>
  <key>ExitTimeOut</key>
  <integer>15</integer>
  <key>StandardErrorPath</key>
  <string>{log}</string>
</dict>
</plist>
",
        words.concat()
    );
    Unit { path: place(home), text: signed(&text, |line| format!("<!-- {line} -->")) }
}

pub(super) fn start(path: &Path) -> Vec<Vec<String>> {
    vec![launchctl(&["bootstrap", &domain(), &path.to_string_lossy()])]
}

pub(super) fn stop() -> Vec<Vec<String>> {
    vec![launchctl(&["bootout", &format!("{}/{LABEL}", domain())])]
}

pub(super) fn ask() -> Vec<String> {
    launchctl(&["print", &format!("{}/{LABEL}", domain())])
}

fn domain() -> String {
    format!("gui/{}", rustix::process::getuid().as_raw())
}

fn launchctl(arguments: &[&str]) -> Vec<String> {
    ["launchctl"].iter().chain(arguments).map(|&word| word.to_owned()).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
