//! Which devices make up the array (being built).
