//! What people read of an errno.

use rustix::io::Errno;

/// The C library's text with a small first letter, as Go prints it and as users of runc know it:
/// `no such file or directory`.
pub(crate) fn text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_as_users_of_runc_know_it() {
        assert_eq!(text(Errno::NOENT), "no such file or directory");
    }
}
