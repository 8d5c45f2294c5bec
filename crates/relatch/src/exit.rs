//! The exit codes, which scripts may rely on.

/// Done.
pub(crate) const DONE: u8 = 0;
/// The answer is no: something does not work.
pub(crate) const NO: u8 = 1;
/// Wrong usage or configuration.
pub(crate) const USAGE: u8 = 2;
/// No keeper reached.
pub(crate) const NO_KEEPER: u8 = 3;
/// Refused: permission, or a store that another keeper has locked.
pub(crate) const REFUSED: u8 = 4;
/// A bug in relatch.
pub(crate) const BUG: u8 = 70;
