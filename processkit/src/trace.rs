//! Events for whoever listens: the one place that knows whether `tracing` is there.

/// `event!(level, field = display, .., "text")`; nothing without the feature.
macro_rules! event {
    ($level:ident, $($field:ident = $value:expr,)* $text:literal) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!($($field = %$value,)* $text);
        #[cfg(not(feature = "tracing"))]
        {
            $(let _ = &$value;)*
        }
    }};
}
