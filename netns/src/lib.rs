//! Pod network namespaces.
