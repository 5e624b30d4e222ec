//! TLS on both sides: what clients speak to Gantry, and what Gantry speaks to `https` servers.
//!
//! | file | holds |
//! |---|---|
//! | `keys` | PEM → certificate chain and key that belong together |
//! | `store` | which certificate a server name gets |
//! | `cipher` | Traefik's names of versions, cipher suites and curves → rustls |
//! | `options` | `tls.options.NAME` → rustls `ServerConfig` |
//! | `setup` | the `tls` section: which options a host gets |
//! | `server` | handshakes of clients: server name → options → certificate |
//! | `client` | `serversTransports.NAME` → handshakes with servers |
//! | `verify` | how the certificate of a server is judged |
//! | `client_auth` | `clientAuth`: files of authorities and revoked certificates, the certificate that was shown |
//! | `client_verifier` | how the certificate of a client is judged |
//! | `subject` | the subject of a certificate as Go writes it |
//! | `bulk` | larger reads below rustls while a large body flows |
//! | `challenge` | proofs that wait for an ACME authority to look |
//! | `cache` | what a reload keeps: parsed certificates, rustls configurations, ticket keys |
//!
//! Invariants:
//! - Nothing here reads a file, but the certificate roots of the system (once a process, in `client`): the caller
//!   hands in the contents as [`crate::config::Resources`].
//! - A handshake takes no lock that a build holds: [`server::ServerTls`] is immutable.
//! - A name whose options are broken is never served with other options: its connections are closed.
//! - Session tickets are shared by all options that ask for no client certificate. Options that ask for one resume no
//!   session: each connection shows its certificate, and authorities and lists of today judge it.
//! - A router whose options ask for a certificate answers only over connections that were made under the same
//!   `clientAuth`, whatever has become of the options of its hosts ([`server::TlsInfo::client_auth_id`]).

pub mod bulk;
pub mod cache;
pub mod challenge;
pub mod cipher;
pub mod client;
pub mod client_auth;
pub mod client_verifier;
pub mod keys;
pub mod options;
pub mod server;
pub mod setup;
pub mod store;
mod subject;
pub mod verify;

/// The first byte of a TLS connection: the record type `handshake` (RFC 8446 section 5.1).
///
/// On an entry point that serves plain and TLS routers, a connection that begins with another byte is plain.
pub const CLIENT_HELLO_FIRST_BYTE: u8 = 0x16;

#[cfg(test)]
mod fixture;
