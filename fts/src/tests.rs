//! The index as a whole: built, merged, damaged, and asked.

mod damage;
mod model;
mod truth;
