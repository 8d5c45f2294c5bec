//! Screens as a person sees them, without colours unless a test is about them.

use std::collections::BTreeSet;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};
use ratatui::style::Color;
use relatch_admin::schema::SessionStatus;

use super::*;
use crate::tui::stage::{all_healths, at, entry, keeper, server, told};
use crate::tui::watch::News;

fn sight(style: Style) -> Sight {
    Sight { now: at(0), zone: TimeZone::UTC, style }
}

fn drawn(model: &mut Model, width: u16, height: u16) -> TestBackend {
    drawn_as(model, width, height, Style::Plain)
}

fn drawn_as(model: &mut Model, width: u16, height: u16, style: Style) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut seen = Seen::default();
    terminal.draw(|frame| seen = draw(frame, model, &sight(style))).unwrap();
    model.seen(seen);
    terminal.backend().clone()
}

fn press(model: &mut Model, keys: &[KeyCode]) {
    for key in keys {
        let _ = model.key(KeyEvent::from(*key), at(0));
    }
}

#[test]
fn every_health_has_its_mark_its_reason_and_its_past_and_trouble_comes_first() {
    insta::assert_snapshot!(drawn(&mut all_healths(), 80, 24));
}

#[test]
fn a_wide_terminal_has_each_past_beside_its_upstream() {
    insta::assert_snapshot!(drawn(&mut all_healths(), 140, 20));
}

#[test]
fn a_narrow_terminal_has_what_matters_most() {
    insta::assert_snapshot!(drawn(&mut all_healths(), 40, 12));
}

#[test]
fn no_size_is_too_small_or_too_large_to_be_drawn() {
    for page in [KeyCode::Esc, KeyCode::Enter, KeyCode::Char('l'), KeyCode::Char('?')] {
        for (width, height) in [(1, 1), (2, 3), (9, 4), (20, 5), (40, 12), (79, 9), (300, 100)] {
            let mut model = all_healths();
            press(&mut model, &[page]);
            let _ = drawn(&mut model, width, height);
            let mut nobody = Model::default();
            press(&mut nobody, &[page]);
            let _ = drawn(&mut nobody, width, height);
        }
    }
}

#[test]
fn the_story_has_conditions_sessions_the_past_and_the_journal() {
    let mut model = all_healths();
    press(&mut model, &[KeyCode::Enter]);
    insta::assert_snapshot!("story", drawn(&mut model, 100, 40));
    insta::assert_snapshot!("story_at_80x24", drawn(&mut model, 80, 24));
    press(&mut model, &[KeyCode::End]);
    insta::assert_snapshot!("story_at_its_end", drawn(&mut model, 80, 24));
    press(&mut model, &[KeyCode::Tab]);
    assert!(drawn(&mut model, 80, 24).to_string().contains("github  ! degraded for 1m 10s"));
}

#[test]
fn a_past_of_another_length_is_drawn_in_as_many_columns() {
    let mut model = all_healths();
    press(&mut model, &[KeyCode::End, KeyCode::Enter, KeyCode::Char('+')]);
    insta::assert_snapshot!("ten_minutes", drawn(&mut model, 80, 24));
    press(&mut model, &[KeyCode::Char('-'); 9]);
    insta::assert_snapshot!("a_day", drawn(&mut model, 80, 24));
}

#[test]
fn the_journal_of_one_upstream_is_a_page_of_its_own() {
    let mut model = all_healths();
    press(&mut model, &[KeyCode::Char('l')]);
    insta::assert_snapshot!(drawn(&mut model, 80, 12));
}

#[test]
fn the_help_has_every_key_and_every_sign() {
    let mut model = all_healths();
    press(&mut model, &[KeyCode::Char('?')]);
    insta::assert_snapshot!(drawn(&mut model, 80, 24));
}

#[test]
fn without_a_keeper_it_says_so_and_what_to_do() {
    let mut model = Model::default();
    assert!(drawn(&mut model, 80, 8).to_string().contains("Asking the keepers"));
    model.readable(None);
    insta::assert_snapshot!("nobody", drawn(&mut model, 80, 8));
    model.readable(Some("Permission denied (os error 13)".into()));
    insta::assert_snapshot!("unreadable", drawn(&mut model, 80, 8));
}

#[test]
fn a_keeper_that_hangs_is_shown_as_such_with_what_it_had() {
    let mut model = all_healths();
    model.learn(News::Status(keeper(99, vec![server("notes", State::Healthy)])), at(0));
    let cause = "process 4711 gave no answer within 2 s".to_owned();
    model.learn(News::Trouble { pid: 4711, cause }, at(0));
    insta::assert_snapshot!("hangs", drawn(&mut model, 80, 12));
    press(&mut model, &[KeyCode::Enter]);
    insta::assert_snapshot!("hangs_story", drawn(&mut model, 80, 12));
}

#[test]
fn a_keeper_of_an_older_version_has_no_past_and_that_is_said() {
    let mut model = Model::default();
    let older = keeper(99, vec![server("notes", State::Healthy)]);
    model.learn(News::Status(KeeperStatus { version: "0.0.9".into(), ..older }), at(0));
    model.learn(News::NoHistory { pid: 99 }, at(0));
    let list = drawn(&mut model, 80, 12).to_string();
    assert!(list.contains("no history: keeper 99 is of a version that tells none (0.0.9)"), "{list}");
    let words: Vec<&str> = list.split_whitespace().collect();
    assert!(words.join(" ").contains("✓ healthy 12m – 3.2/41 ms"), "{list}");
    press(&mut model, &[KeyCode::Enter]);
    let story = drawn(&mut model, 80, 24).to_string();
    assert!(story.contains("no history: keeper 99"), "{story}");
}

#[test]
fn many_upstreams_are_scrolled_so_that_the_selected_one_is_seen() {
    let servers = (0..40).map(|n| server(&format!("server-{n:02}"), State::Healthy)).collect();
    let mut model = told(vec![keeper(4711, servers)]);
    let first = drawn(&mut model, 80, 14).to_string();
    assert!(first.contains("▸ server-00") && !first.contains("server-09"), "{first}");
    press(&mut model, &[KeyCode::End]);
    insta::assert_snapshot!(drawn(&mut model, 80, 14));
    press(&mut model, &[KeyCode::Up]);
    let up = drawn(&mut model, 80, 14).to_string();
    assert!(up.contains("▸ server-38") && up.contains("server-39"), "the list stands still: {up}");
    press(&mut model, &[KeyCode::PageUp, KeyCode::PageUp]);
    let page = drawn(&mut model, 80, 14).to_string();
    assert!(page.contains("▸ server-3"), "{page}");
    press(&mut model, &[KeyCode::Home]);
    assert!(drawn(&mut model, 80, 14).to_string().contains("▸ server-00"));
}

#[test]
fn foreign_names_keep_to_their_column_and_write_to_no_terminal() {
    let bad = "evil\u{1b}[31m\nname";
    let wide = "日本語のサーバーという名前の長いサーバー";
    let mut servers =
        vec![server(bad, State::Down), server(wide, State::Healthy), server("plain", State::Healthy)];
    servers[0].reason = Some("refused\u{1b}]0;title\u{7}\r\nand more".into());
    let other = servers[1].sessions[0].clone();
    servers[1].sessions.push(SessionStatus { generation: 1, bound: Some(at(-9_000)), ..other });
    let mut model = told(vec![keeper(4711, servers)]);
    model.learn(
        News::Entry(entry(4711, 0, -5, bad, relatch_core::journal::What::Attached, "cli\u{1b}[2Jent")),
        at(0),
    );
    let screen = drawn(&mut model, 100, 20);
    assert!(screen.buffer().content().iter().all(|cell| !cell.symbol().chars().any(char::is_control)));
    insta::assert_snapshot!(screen);
}

#[test]
fn two_keepers_of_one_name_are_told_apart_on_a_narrow_terminal_too() {
    let one = || vec![server("gmail", State::Healthy)];
    let mut model = told(vec![keeper(1, one()), keeper(2, one())]);
    let screen = drawn(&mut model, 60, 12).to_string();
    assert!(screen.contains("serve 1") && screen.contains("serve 2"), "{screen}");
}

#[test]
fn colours_are_added_and_never_needed() {
    let (plain, coloured) =
        (drawn(&mut all_healths(), 80, 24), drawn_as(&mut all_healths(), 80, 24, Style::Coloured));
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
