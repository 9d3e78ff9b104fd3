pub fn tests() -> Vec<crate::Test> {
    Vec::new()
}
