//! Data for a server to hold.

use crate::client::{Client, Fault};
use std::net::SocketAddr;

/// Values of this size.
const VALUE: usize = 16 * 1024;
/// So many make a megabyte.
const BATCH: u32 = 64;

/// Writes this much data, in values of 16 KiB.
///
/// # Errors
/// What a client can see.
pub fn fill(addr: SocketAddr, megabytes: u32) -> Result<(), Fault> {
    let mut client = Client::connect(addr)?;
    let value = vec![b'v'; VALUE];
    for megabyte in 0..megabytes {
        for n in 0..BATCH {
            client.send(&[b"SET", format!("data:{megabyte}:{n}").as_bytes(), &value])?;
        }
        for _ in 0..BATCH {
            client.reply()?;
        }
    }
    Ok(())
}
