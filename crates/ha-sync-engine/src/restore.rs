//! Puts back what runs replaced or deleted.
