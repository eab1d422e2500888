"""Tables, figures and reports from the runs' records. `records`, `grid`, `tables`, `render` and
`plots` do not need torch."""
