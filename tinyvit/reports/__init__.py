"""Pages and plots about stores and runs: rows drawn from a store, what they amount to, students beside a teacher."""
