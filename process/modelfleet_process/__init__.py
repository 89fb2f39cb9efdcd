"""What every process of Modelfleet does alike: its logs, their options, its tie to its parent."""
