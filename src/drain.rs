//! Drain: stop accepting, wait, force. (to be written)
