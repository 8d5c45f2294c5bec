//! `relatch top` on a real terminal: what a person sees, and that the terminal is given back.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::stage::{self, Home, Piped, Program, Real, until};

/// `relatch top` in a terminal of its own.
struct Top {
    program: Program,
    keyboard: File,
    /// The program's end of the terminal.
    terminal: File,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Top {
    fn start(home: &Home, more: &[(&str, &str)]) -> Top {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let path = ptsname(&keyboard, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = File::from(rustix::fs::open(path.as_c_str(), flags, Mode::empty()).unwrap());
        tcsetwinsize(&keyboard, size(24, 80)).unwrap();
        let before = tcgetattr(&terminal).unwrap();

        // A terminal tells its size and sends its signals to the session that it belongs to.
        let top = home.relatch(&["top"]);
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(top.get_program()).args(top.get_args());
        for (name, value) in top.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(more.iter().copied());
        command.stdin(terminal.try_clone().unwrap());
        let out = terminal.try_clone().unwrap();
        let program = Program::spawn_onto(&mut command, out.into());

        let keyboard = File::from(keyboard);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let (mut shown, drawn) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = shown.read(&mut bytes) {
                drawn.lock().unwrap().process(&bytes[..read]);
            }
        });
        Top { program, keyboard, terminal, before, screen }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until these words are in a line of the screen, however wide its columns are.
    fn shows(&self, words: &str) {
        let end = Instant::now() + stage::PATIENCE;
        let shown = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ").contains(words);
        while !self.text().lines().any(shown) {
            let (text, said) = (self.text(), self.program.said());
            assert!(Instant::now() < end, "no `{words}` on\n{text}\n{said}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.keyboard, size(rows, columns)).unwrap();
    }

    /// How many cells of the screen have a colour.
    fn coloured(&self) -> usize {
        let screen = self.screen.lock().unwrap();
        let (rows, columns) = screen.screen().size();
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let colour = |(row, column)| screen.screen().cell(row, column).map(vt100::Cell::fgcolor);
        cells.filter(|at| colour(*at).is_some_and(|colour| colour != vt100::Color::Default)).count()
    }

    /// It has ended, and the terminal is as it was.
    fn gave_the_terminal_back(mut self) {
        let (status, said) = self.program.ended();
        assert_eq!((status.code(), said.as_str()), (Some(0), ""));
        let modes = |terminal: &Termios| {
            (terminal.local_modes, terminal.input_modes, terminal.output_modes, terminal.control_modes)
        };
        assert_eq!(modes(&tcgetattr(&self.terminal).unwrap()), modes(&self.before));
        until("the screen is the old one, with a cursor", || {
            let screen = self.screen.lock().unwrap();
            (!screen.screen().alternate_screen() && !screen.screen().hide_cursor()).then_some(())
        });
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[test]
fn a_downtime_that_nobody_looked_at_is_in_the_past_of_a_client_s_own_keeper() {
    let home = Home::new();
    let server = Real::start(&home, 0);
    let mut client = Piped::start(&home, &server.url(), &["--name", "piped"]);
    client.initialize();
    let is = |health: &str| (home.server_status("piped")["health"] == health).then_some(());
    until("it is healthy", || is("healthy"));
    let port = server.kill();
    until("it is down", || is("down"));
    let _server = Real::start(&home, port);
    until("it is healthy again", || is("healthy"));

    let mut top = Top::start(&home, &[]);
    top.shows("▸ piped ✓ healthy");
    // In the strip of time; nothing else on the screen looks like it.
    top.shows("✗");
    top.press("q");
    top.gave_the_terminal_back();
}

#[test]
fn a_server_is_seen_healthy_down_and_healthy_again_from_before_its_keeper_until_quit() {
    let home = Home::new();
    let mut top = Top::start(&home, &[]);
    top.shows("No keeper of this user runs");
    let raw = tcgetattr(&top.terminal).unwrap();
    assert_ne!(raw.local_modes, top.before.local_modes, "the terminal is in its hands");

    let server = Real::start(&home, 0);
    let mut client = Piped::start(&home, &server.url(), &["--name", "piped"]);
    client.initialize();
    top.shows("▸ piped ✓ healthy");
    top.shows("piped attached stage 1");
    until("it has colours", || (top.coloured() > 0).then_some(()));

    let port = server.kill();
    top.shows("▸ piped ✗ down");
    top.shows("connection refused (ECONNREFUSED");
    top.press("\r");
    top.shows("hint: Start the server; relatch finds it by itself");
    top.press("r");
    top.shows("`piped`: relatching 1 session");
    top.press("l");
    top.shows("── journal of piped");
    top.shows("somebody asked for a new session");
    top.press("\x1b");
    top.shows("▸ piped ✗ down");

    let server = Real::start(&home, port);
    top.shows("▸ piped ✓ healthy");
    top.shows("piped relatched a new session after");
    top.resize(12, 40);
    until("columns that have no room are gone", || (!top.text().contains("P50/P99")).then_some(()));
    top.shows("✓ healthy");
    top.resize(30, 150);
    top.shows("P50/P99");
    top.press("?");
    top.shows("unknown: no fresh evidence");

    // Its keeper ends: it is gone from the list.
    client.close();
    top.press(" ");
    top.shows("No keeper of this user runs");
    top.press("q");
    top.gave_the_terminal_back();
    drop(server);
}

#[test]
fn a_keeper_that_hangs_is_called_so_and_heard_again_when_it_goes_on() {
    let home = Home::new();
    let peer = stage::echo();
    let mut client = Piped::start(&home, &peer.url(), &["--name", "piped"]);
    client.initialize();
    let top = Top::start(&home, &[("NO_COLOR", "1")]);
    top.shows("▸ piped ✓ healthy");
    client.program.signal("STOP");
    let pid = client.program.pid();
    top.shows(&format!("keeper {pid} ✗ hangs"));
    top.shows("no answer within 2 s · it had `piped`");
    client.program.signal("CONT");
    top.shows("▸ piped ✓ healthy");
    assert_eq!(top.coloured(), 0, "NO_COLOR was asked for");
    top.program.signal("TERM");
    top.gave_the_terminal_back();
}

#[test]
fn ctrl_c_and_the_end_of_the_terminals_session_give_the_terminal_back() {
    let home = Home::new();
    let mut top = Top::start(&home, &[]);
    top.shows("No keeper of this user runs");
    top.press("\x03");
    top.gave_the_terminal_back();
    for signal in ["INT", "HUP"] {
        let top = Top::start(&home, &[]);
        top.shows("No keeper of this user runs");
        top.program.signal(signal);
        top.gave_the_terminal_back();
    }
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let home = Home::new();
    let (code, out, err) = home.typed(&["top"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(
        err,
        "error: `relatch top` needs a terminal, and stdout is none\nhint: Use `relatch status --watch`\n"
    );
    let mut top = Top::start(&home, &[("TERM", "dumb")]);
    let (status, said) = top.program.ended();
    assert_eq!(status.code(), Some(2));
    assert!(
        said.contains("can't draw on this terminal: `TERM` is `dumb`\nhint: Use `relatch status --watch`"),
        "{said}"
    );
    assert!(!top.screen.lock().unwrap().screen().alternate_screen());
}
