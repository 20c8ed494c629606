"""Networks as plain torch modules: the compact and the released NPP, MindGrab."""
