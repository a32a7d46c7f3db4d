//! The harness: private containerds, images and what they leave behind.
pub mod cri;
