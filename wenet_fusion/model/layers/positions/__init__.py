"""How layers see the distance between frames: a learned bias of attention, or sinusoids."""
