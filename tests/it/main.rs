//! Promises kept over real sockets: the real proxy on port 0, a scripted origin behind it, raw clients before it.

mod support;

mod admin;
mod answers;
mod cache;
mod fills;
mod forward;
mod limits;
mod origin_request;
mod origin_trouble;
mod server;
mod tls_origin;
