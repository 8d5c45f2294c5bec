//! Screens as a person sees them.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::style::Color;
use relatch_core::journal::What;

use super::*;
use crate::dev::news::{Event, Left, Line as Said, News, Said as Words, Stage, Up};
use crate::render::Style;
use crate::render::dev::Listening;
use crate::tui::stage::{at, entry, server};

fn drawn_as(board: &mut Board, width: u16, height: u16, style: Style) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let sight = Sight { now: at(0), zone: TimeZone::UTC, style };
    let mut seen = Seen::default();
    terminal.draw(|frame| seen = draw(frame, board, &sight)).unwrap();
    board.seen(seen);
    terminal.backend().clone()
}

fn drawn(board: &mut Board, width: u16, height: u16) -> TestBackend {
    drawn_as(board, width, height, Style::Plain)
}

fn line(second: i64, said: Words) -> News {
    News::Line(Said { at: at(second), said })
}

fn says(second: i64, event: Event) -> News {
    line(second, Words::Relatch(event))
}

fn fresh() -> Board {
    let listening = Listening {
        url: "http://127.0.0.1:7333/notes/mcp".into(),
        paste: "claude mcp add --transport http notes http://127.0.0.1:7333/notes/mcp --header \"Relatch-Token: t0k\"".into(),
    };
    let mut board = Board::new("notes".into(), Some(listening));
    board.learn(says(-9, Event::Watches { roots: vec!["/home/me/notes".into()], files: 12 }));
    board
}

/// A server that was up, was edited into a fault, and goes on.
fn at_work() -> Board {
    let mut board = fresh();
    let up = Up { server: Some("notes 1.4.0".into()), ms: 1_340, clients: Some(2), port: Some(40_123) };
    board.learn(says(-60, Event::Up(up)));
    board.learn(line(-40, Words::Server("INFO: 127.0.0.1:54602 - \"POST /mcp HTTP/1.1\" 200 OK".into())));
    board.learn(says(-31, Event::Journal(entry(1, 1, -31, "notes", What::ListChanged, "+search"))));
    board.learn(says(-5, Event::Changed(vec!["/home/me/notes/server.py".into()])));
    board.learn(says(-5, Event::Builds("make".into())));
    board.learn(line(-5, Words::Build("cc -o server server.c".into())));
    board.learn(says(-4, Event::Built { ms: 210 }));
    board.learn(line(-3, Words::Server("  File \"server.py\", line 12".into())));
    board.learn(line(-3, Words::Server("SyntaxError: '(' was never closed".into())));
    let words =
        "`python` exited with status 1; on stderr it had said `SyntaxError: '(' was never closed`".to_owned();
    board.learn(says(-3, Event::NotUp { words: words.clone(), left: Left::Former }));
    board.learn(News::Stage(Stage::Failed { since: at(-3), words, left: Left::Former }));
    for (call, (method, tool, over)) in [
        ("initialize", None, Some((38, "answered", false))),
        ("tools/list", None, Some((9, "answered", false))),
        ("tools/call", Some("search_the_notes_of_everybody"), Some((1_212, "answered", false))),
        ("tools/call", Some("add"), Some((4, "tool error", true))),
        ("tools/call", Some("slow"), None),
    ]
    .into_iter()
    .enumerate()
    {
        let call = u64::try_from(call).unwrap();
        let second = -20 + i64::try_from(call).unwrap();
        board.learn(News::Asked {
            at: at(second),
            call,
            method: method.into(),
            tool: tool.map(str::to_owned),
        });
        if let Some((ms, outcome, failed)) = over {
            board.learn(News::Ended { call, ms, outcome: outcome.into(), failed });
        }
    }
    board.status(Some(server("notes", State::Healthy)));
    board
}

#[test]
fn log_health_and_calls_stand_side_by_side() {
    insta::assert_snapshot!(drawn(&mut at_work(), 120, 24));
}

#[test]
fn on_a_narrow_terminal_the_log_stands_above_the_rest() {
    insta::assert_snapshot!(drawn(&mut at_work(), 80, 24));
}

#[test]
fn before_the_first_call_it_says_how_a_client_gets_there() {
    insta::assert_snapshot!(drawn(&mut fresh(), 100, 16));
}

#[test]
fn a_server_that_is_down_says_why_and_what_to_do() {
    let mut board = at_work();
    board.status(Some(server("notes", State::Down)));
    let words = "`server` was ended by signal 11".to_owned();
    board.learn(says(-1, Event::Exited { words: words.clone(), again_ms: Some(500) }));
    board.learn(News::Stage(Stage::Rests { since: at(-1), words }));
    insta::assert_snapshot!(drawn(&mut board, 120, 24));
}

#[test]
fn a_log_that_is_scrolled_back_stands_still_and_says_so() {
    let mut board = fresh();
    for n in 0..60 {
        board.learn(line(n - 60, Words::Server(format!("line {n}"))));
    }
    let _ = drawn(&mut board, 100, 14);
    let _ = board.key(KeyEvent::from(KeyCode::PageUp));
    let before = drawn(&mut board, 100, 14).to_string();
    assert!(before.contains("line 45") && !before.contains("line 59"), "{before}");
    board.learn(line(0, Words::Server("one more".into())));
    let after = drawn(&mut board, 100, 14).to_string();
    assert!(after.contains("line 45") && after.contains("lines below"), "{after}");
    let _ = board.key(KeyEvent::from(KeyCode::End));
    assert!(drawn(&mut board, 100, 14).to_string().contains("one more"));
}

#[test]
fn no_size_is_too_small_or_too_large_to_be_drawn() {
    for (width, height) in [(1, 1), (2, 3), (9, 4), (20, 5), (40, 12), (96, 2), (97, 9), (300, 100)] {
        let _ = drawn(&mut at_work(), width, height);
        let _ = drawn(&mut fresh(), width, height);
    }
}

#[test]
fn foreign_text_writes_to_no_terminal() {
    let mut board = at_work();
    board.learn(line(-1, Words::Server("a\u{1b}[2Jb\u{7}".into())));
    board.learn(News::Asked { at: at(-1), call: 99, method: "x\u{1b}[31m".into(), tool: None });
    let screen = drawn(&mut board, 120, 24);
    assert!(screen.buffer().content().iter().all(|cell| !cell.symbol().chars().any(char::is_control)));
}

#[test]
fn colours_are_added_and_never_needed() {
    let plain = drawn(&mut at_work(), 120, 24);
    let coloured = drawn_as(&mut at_work(), 120, 24, Style::Coloured);
    let text = |screen: &TestBackend| -> String {
        screen.buffer().content().iter().map(|cell| cell.symbol().to_owned()).collect()
    };
    assert_eq!(text(&plain), text(&coloured));
    let colours = |screen: &TestBackend| -> BTreeSet<String> {
        let cells = screen.buffer().content().iter();
        cells.filter(|cell| cell.fg != Color::Reset).map(|cell| format!("{:?}", cell.fg)).collect()
    };
    assert!(colours(&plain).is_empty());
    assert_eq!(colours(&coloured).into_iter().collect::<Vec<_>>(), ["Green", "Red", "Yellow"]);
}
