//! Single cases, each with its own name.
