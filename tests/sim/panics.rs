//! Panics of simulated nodes. The released program ends at the first one (`panic = "abort"`); tokio's tasks
//! end alone, and a group whose task is gone would only be silent.

use std::{cell::RefCell, panic, sync::Once};

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes panics of this thread's simulation from now on, beside what the hook of before does with them.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            FIRST.with_borrow_mut(|first| {
                first.get_or_insert_with(|| info.to_string());
            });
            before(info);
        }));
    });
    take();
}

/// The first panic since the last call.
pub(crate) fn take() -> Option<String> {
    FIRST.take()
}
