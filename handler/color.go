package handler

import (
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
)

// color is red, green and blue.
type color [3]byte

var (
	black = color{0, 0, 0}
	white = color{255, 255, 255}
	// What style.css puts links on, where they have the least contrast.
	lightGround = color{0xf6, 0xf6, 0xf4}
	darkCard    = color{0x20, 0x20, 0x1e}
)

// contrast is WCAG's contrast ratio, from 1 to 21.
func (c color) contrast(other color) float64 {
	a, b := c.luminance(), other.luminance()
	return (max(a, b) + 0.05) / (min(a, b) + 0.05)
}

// luminance is WCAG's relative luminance, from 0 to 1.
func (c color) luminance() (sum float64) {
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		part := float64(c[i]) / 255
		if part <= 0.04045 {
			sum += weight * part / 12.92
		} else {
			sum += weight * math.Pow((part+0.055)/1.055, 2.4)
		}
	}
	return sum
}

// readableOn returns c, mixed with as little of toward, in percent, as gives it the contrast
// of 4.5 that WCAG 2.2 asks of text (success criterion 1.4.3).
func (c color) readableOn(ground, toward color) color {
	for percent := range 100 {
		mixed := c
		for i := range mixed {
			mixed[i] = byte((int(c[i])*(100-percent) + int(toward[i])*percent) / 100)
		}
		if mixed.contrast(ground) >= 4.5 {
			return mixed
		}
	}
	return toward
}

// serveStyle serves the style of the pages. If the app has a color, its buttons have it,
// with black or white text, and its links what can be read of it in light and dark.
func serveStyle(appColor string) func(*request) error {
	style, err := pages.ReadFile("pages/style.css")
	if err != nil {
		panic(err) // it is embedded
	}
	if appColor != "" {
		var brand color
		hex.Decode(brand[:], []byte(appColor[1:])) // config checked it
		text := white
		if brand.contrast(black) > brand.contrast(white) {
			text = black // one of them always has more than 4.5
		}
		const rule = ":root { --brand: #%x; --on-brand: #%x; --accent: #%x }"
		style = fmt.Appendf(style, rule+"\n", brand, text, brand.readableOn(lightGround, black))
		style = fmt.Appendf(style, "@media (prefers-color-scheme: dark) { "+rule+" }\n", brand, text, brand.readableOn(darkCard, white))
	}
	return func(r *request) error {
		r.Response().Header().Set("Cache-Control", assetCache)
		return r.Blob(http.StatusOK, "text/css; charset=utf-8", style)
	}
}
