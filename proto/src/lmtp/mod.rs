//! LMTP
