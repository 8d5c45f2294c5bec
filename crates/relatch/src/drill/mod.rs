//! The rehearsal: a server is really killed and started again while a client calls it, and what the client gets is
//! written down.
//!
//! `server` is a small MCP server in its own process, `client` a small MCP client that speaks through `relatch stdio`
//! or, with `--direct`, straight to the server as the common SDK clients do. `scenes` plays, `story` is what is told.
//! Nothing here uses relatch's own machinery: the rehearsal sees relatch as any client does.

pub(crate) mod client;
pub(crate) mod own;
pub(crate) mod scenes;
pub(crate) mod server;
pub(crate) mod story;
