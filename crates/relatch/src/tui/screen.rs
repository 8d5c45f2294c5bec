//! The terminal while the view has it, and how it is given back: at the end, by a signal, and in a panic.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{execute, queue};
use ratatui::{Frame, Terminal};

/// Whether the terminal is ours now.
static RAISED: AtomicBool = AtomicBool::new(false);
/// A whole screen of a large terminal goes out in one piece.
const PIECE: usize = 64 * 1024;

/// The terminal in our hands; given back when this is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    pub(super) fn raise() -> io::Result<Screen> {
        enable_raw_mode()?;
        RAISED.store(true, Ordering::SeqCst);
        let raised = execute!(io::stdout(), EnterAlternateScreen, Hide).and_then(|()| {
            Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(PIECE, io::stdout())))
        });
        match raised {
            Ok(terminal) => Ok(Screen { terminal }),
            Err(cause) => {
                restore();
                Err(cause)
            }
        }
    }

    /// Writes what has changed, as one picture.
    pub(super) fn draw<T>(&mut self, draw: impl FnOnce(&mut Frame<'_>) -> T) -> io::Result<T> {
        let mut drawn = None;
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
        self.terminal.draw(|frame| drawn = Some(draw(frame)))?;
        execute!(self.terminal.backend_mut(), EndSynchronizedUpdate)?;
        drawn.ok_or_else(|| io::Error::other("nothing was drawn"))
    }

    /// The next picture is written whole.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, once, as it was. Also for the panic hook: what it prints is to be read.
pub(crate) fn restore() {
    if RAISED.swap(false, Ordering::SeqCst) {
        let mut out = io::stdout();
        let _ = execute!(out, EndSynchronizedUpdate, LeaveAlternateScreen, Show).and_then(|()| out.flush());
        let _ = disable_raw_mode();
    }
}
