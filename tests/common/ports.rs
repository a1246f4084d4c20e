//! Addresses to listen at, and how to reach whoever does.

use std::net::TcpListener;

use ringwire::Address;

/// A port that nobody has, of either family.
#[cfg_attr(
    not(feature = "tls"),
    allow(
        dead_code,
        reason = "of the library's tests only those of TLS need one"
    )
)]
pub fn free_port() -> u16 {
    let both = TcpListener::bind("[::]:0").unwrap();
    both.local_addr().unwrap().port()
}

/// Where to connect to reach who listens at `address`.
pub fn reachable(address: &str) -> Address {
    let address = address.replace("0.0.0.0", "127.0.0.1");
    address.replace("[::]", "[::1]").parse().unwrap()
}

/// Whether the host has IPv6; says so if not.
pub fn has_ipv6() -> bool {
    match TcpListener::bind("[::1]:0") {
        Ok(_) => true,
        Err(error) => {
            println!("not tested on [::1]: {error}");
            false
        }
    }
}
