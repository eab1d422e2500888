"""From the runs' records to tables, figures and reports. `records`, `grid`, `tables`, `render` and
`plots` do without torch."""
