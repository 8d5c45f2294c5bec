//! Lines: the framing of messages on stdio (basic/transports#stdio).
//!
//! A message is one line. What a line says is for [`crate::envelope`] to read.

use bytes::{Bytes, BytesMut};

/// The longest line that is read, in bytes: 64 MiB.
pub const MAX_LINE: usize = 64 * 1024 * 1024;

/// A line was longer than the bound; it is skipped to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The line is longer than {limit} bytes")]
pub struct LineTooLong {
    /// The bound, in bytes.
    pub limit: usize,
}

/// Cuts a stream, fed in chunks of any size, into lines. Blank lines are skipped.
#[derive(Debug)]
pub struct LineReader {
    limit: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Collecting(BytesMut),
    /// Until the end of a line that was too long.
    Skipping,
}

impl LineReader {
    /// A reader with the bound [`MAX_LINE`].
    pub fn new() -> Self {
        Self::with_limit(MAX_LINE)
    }

    /// A reader with another bound, in bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, state: State::Collecting(BytesMut::new()) }
    }

    /// Reads on; each line that is complete is appended to `out` without its end.
    pub fn feed(&mut self, chunk: &[u8], out: &mut Vec<Result<Bytes, LineTooLong>>) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let at = rest.iter().position(|b| *b == b'\n');
            let (text, tail) = rest.split_at(at.unwrap_or(rest.len()));
            self.collect(text, out);
            if at.is_some() {
                self.line_ends(out);
            }
            rest = tail.get(1..).unwrap_or_default();
        }
    }

    /// The stream has ended: a last line without an end is given too.
    pub fn finish(&mut self, out: &mut Vec<Result<Bytes, LineTooLong>>) {
        self.line_ends(out);
    }

    fn collect(&mut self, text: &[u8], out: &mut Vec<Result<Bytes, LineTooLong>>) {
        if let State::Collecting(line) = &mut self.state {
            // One more than the bound may be the carriage return of the line's end.
            if line.len() + text.len() > self.limit + 1 {
                self.state = State::Skipping;
                out.push(Err(LineTooLong { limit: self.limit }));
            } else {
                line.extend_from_slice(text);
            }
        }
    }

    fn line_ends(&mut self, out: &mut Vec<Result<Bytes, LineTooLong>>) {
        match std::mem::replace(&mut self.state, State::Collecting(BytesMut::new())) {
            State::Skipping => {}
            State::Collecting(mut line) => {
                if line.ends_with(b"\r") {
                    line.truncate(line.len() - 1);
                }
                if line.len() > self.limit {
                    out.push(Err(LineTooLong { limit: self.limit }));
                } else if !line.iter().all(u8::is_ascii_whitespace) {
                    out.push(Ok(line.freeze()));
                }
            }
        }
    }
}

impl Default for LineReader {
    fn default() -> Self {
        Self::new()
    }
}

/// The message as one line, without its end: line breaks become spaces. In valid JSON they can only stand between
/// tokens. No copy is made if there are none.
pub fn one_line(message: &Bytes) -> Bytes {
    let is_break = |b: &u8| matches!(b, b'\n' | b'\r');
    if !message.iter().any(is_break) {
        return message.clone();
    }
    message.iter().map(|b| if is_break(b) { b' ' } else { *b }).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(limit: usize, text: &[u8]) -> Vec<Result<Bytes, LineTooLong>> {
        let mut out = Vec::new();
        let mut reader = LineReader::with_limit(limit);
        reader.feed(text, &mut out);
        reader.finish(&mut out);
        out
    }

    #[test]
    fn lines_end_as_on_any_system_and_blank_ones_do_not_count() {
        let expected: Vec<_> = [&b"{}"[..], b"[1]", b"a\rb", b"last"]
            .into_iter()
            .map(|line| Ok(Bytes::from_static(line)))
            .collect();
        assert_eq!(lines(9, b"\n{}\r\n \t\r\n[1]\n\na\rb\nlast"), expected);
    }

    #[test]
    fn a_line_beyond_the_bound_is_named_once_and_the_next_one_is_read() {
        let too_long = LineTooLong { limit: 3 };
        assert_eq!(lines(3, b"abcd\nabc\r\n"), [Err(too_long), Ok(Bytes::from_static(b"abc"))]);
        assert_eq!(lines(3, b"abcdefgh\nx"), [Err(too_long), Ok(Bytes::from_static(b"x"))]);
        assert!(too_long.to_string().contains("3 bytes"));
    }

    #[test]
    fn a_message_becomes_one_line_and_is_copied_only_if_it_must() {
        let message = Bytes::from_static(b"{\r\n\"a\": 1\n}");
        assert_eq!(one_line(&message), &b"{  \"a\": 1 }"[..]);
        let message = Bytes::from_static(b"{\"a\\n\":1}");
        assert_eq!(one_line(&message).as_ptr(), message.as_ptr());
    }
}
