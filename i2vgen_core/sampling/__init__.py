"""How a video is sampled: schedules, solvers, guidance, and the two stages made of them."""
