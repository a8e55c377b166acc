//! The client library against nodes that do what a test tells them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod consumer;
mod producer;
mod support;
mod worker;
