//! TCP over flows: a connected flow for each connection, a wildcard flow for a listener.
//!
//! `seat` is where threads take turns at a flow. `exchange` is a socket ([`stack_socket::TcpSocket`]) with its flow,
//! and `socket` is what handles of it share.
//! `stream`, `lent` and `listener` are what the application sees; `door` is a listener's at one address.
//!
//! Everything a connection needs is done in this process: by the thread that calls, while it is in a
//! call; by the service thread of the link's arenas (`service`), while no thread is.

mod door;
mod dump;
mod exchange;
pub(crate) mod last_words;
mod layers;
mod lent;
mod listener;
mod readiness;
mod seat;
mod service;
mod socket;
mod stream;

pub use dump::{DUMP_VARIABLE, Dump};
pub(crate) use layers::FIRST_RECEIVE_BYTES;
pub use lent::{Received, Room};
pub use listener::{Incoming, TcpListener};
pub(crate) use service::{Service, Services};
pub use stream::TcpStream;

/// What this process knows of hosts that take data on SYNs (RFC 7413).
fn fast_cache() -> std::sync::MutexGuard<'static, stack_tcp::FastCache> {
    static CACHE: std::sync::OnceLock<std::sync::Mutex<stack_tcp::FastCache>> =
        std::sync::OnceLock::new();
    let cache = CACHE.get_or_init(std::sync::Mutex::default);
    cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The key of this process's numbers (RFC 6528).
fn secret() -> &'static stack_tcp::Secret {
    static SECRET: std::sync::OnceLock<stack_tcp::Secret> = std::sync::OnceLock::new();
    SECRET.get_or_init(|| {
        use std::hash::{BuildHasher, RandomState};
        // The standard library's hash keys come from the kernel's source of chance.
        let draw = || RandomState::new().hash_one(std::process::id()).to_ne_bytes();
        let (first, second) = (draw(), draw());
        let mut key = [0; 16];
        key[..8].copy_from_slice(&first);
        key[8..].copy_from_slice(&second);
        stack_tcp::Secret::new(key)
    })
}
