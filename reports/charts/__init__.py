"""The page's charts as SVG, a file a chart."""
