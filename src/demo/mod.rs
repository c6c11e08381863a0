//! What `ticketgate demo` is made of (S41).

pub mod qr;
