//! What `ticketgate demo` is made of (S41).

pub mod issued;
pub mod loopback;
pub mod qr;
pub mod stand_in;
